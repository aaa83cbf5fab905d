"""tyro's parser with this project's manners: what is wrong comes as one sentence, in a UserError."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dat.recipes.number_text import parse_number
from dat_engine.errors import UserError, did_you_mean

Flags = TypeVar("Flags")

HELP = ("-h", "--help")
_BOX = "│╭╮╰╯|"
_CONF: Any = tyro.conf
_NO_FLAGS = (_CONF.Positional[int].__metadata__[0], _CONF.Suppress[int].__metadata__[0])
_FRACTIONS = ConstructorRegistry()


@_FRACTIONS.primitive_rule
def _number_flag(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float] | None:
    """Every number that is a flag may be a fraction."""
    if type_info.type is not float:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER",
        instance_from_str=lambda words: parse_number(words[0]),
        is_instance=lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@_FRACTIONS.primitive_rule
def _whole_number_flag(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    """Whole numbers are refused in the words of this project, not of Python's int()."""
    if type_info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: _whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number; write it like 30") from None


def parse_flags(
    flags_type: type[Flags],
    arguments: Sequence[str],
    *,
    command: str,
    description: str | None = None,
    early: Iterable[str] = (),
    **options: Any,
) -> Flags:
    """Parse command-line words into the dataclass `flags_type`; prints and exits only for ``--help``.

    Args:
        early: flags that were taken out of `arguments` before; they are offered where another one is misspelt.

    Raises:
        UserError: an unknown, malformed or out-of-range flag; one sentence, with the nearest flag where one is near.
    """
    _refuse_unknown(arguments, [*flag_names(flags_type), *early, *HELP])
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), _FRACTIONS:
            return tyro.cli(flags_type, args=list(arguments), prog=command, description=description, **options)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise UserError(_one_sentence(complaint.getvalue())) from None


def flag_names(flags_type: Any, prefix: str = "", default: Any = None) -> list[str]:
    """Every flag that tyro makes of a dataclass, ``--no-`` forms included.

    Args:
        default: a value of it; of a field that may hold one of several dataclasses the flags are those of the one it holds.
    """
    names: list[str] = []
    hints = get_type_hints(flags_type, include_extras=True)
    for field in fields(flags_type):
        hint, name = hints[field.name], field.name
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        if any(mark in marks for mark in _NO_FLAGS):
            continue
        value = getattr(default, name) if default is not None else field.default
        bare = type(value) if is_dataclass(value) else get_args(hint)[0] if marks else hint
        renamed = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), name)
        if is_dataclass(bare):
            own = value if is_dataclass(value) else None
            names += flag_names(bare, f"{prefix}{renamed}." if renamed else prefix, own)
            continue
        flag = renamed.replace("_", "-")
        names.append(f"--{prefix.replace('_', '-')}{flag}")
        if bare is bool:
            names.append(f"--{prefix.replace('_', '-')}no-{flag}")
    return names


def take_flag(arguments: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """What ``--flag VALUE`` or ``--flag=VALUE`` says before anything is parsed (the last one counts), and the other words.

    None where the flag is not given.

    Raises:
        UserError: no value follows it.
    """
    value, rest = None, []
    words = iter(arguments)
    for word in words:
        if word == flag:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise UserError(f"{flag} needs a value")
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
        else:
            rest.append(word)
    return value, rest


def _refuse_unknown(arguments: Sequence[str], known: list[str]) -> None:
    for word in arguments:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"unrecognized {word.partition('=')[0]}{near or '; --help lists all flags'}")


def _one_sentence(box: str) -> str:
    """What stands in tyro's box: its message, without the account of every type that was tried."""
    blocks: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        content = line.strip().strip(_BOX).strip()
        if re.fullmatch(r"[─-]*", content):
            blocks.append([])
        else:
            blocks[-1].append(content)
    filled = [block for block in blocks if block]
    sentence = " ".join(filled[0])
    for block in filled[1:]:
        if block[0].startswith("Got errors"):
            # of a flag that may be None too: only what its own type says is of use
            own = [line for line in block[1:] if line.startswith("-") and "NoneType" not in line]
            flag = re.match(r"Error parsing (--[\w.-]+)", sentence)
            if own and flag:
                sentence = f"Error parsing {flag[1]}: {own[0].partition(': ')[2]}"
    leftover = re.match(r"Unrecognized options: (\S+)", sentence)
    if leftover:
        return (
            f"unrecognized {leftover[1]}; what follows the first word is flags, which begin with --, and their values"
        )
    return re.sub(r"^Error parsing (?:[a-z][\w.]*: )?", "", sentence)
