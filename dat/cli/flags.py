"""tyro's parser with this project's manners: what is wrong comes as one sentence, in a ValueError."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

Flags = TypeVar("Flags")

_BOX = "│╭╮╰╯|"


def parse_flags(
    flags_type: type[Flags], arguments: Sequence[str], *, command: str, description: str | None = None, **options: Any
) -> Flags:
    """Parse command-line words into the dataclass `flags_type`; prints and exits only for ``--help``.

    Raises:
        ValueError: an unknown, malformed or out-of-range flag; one sentence with tyro's suggestion where it has one.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(flags_type, args=list(arguments), prog=command, description=description, **options)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise ValueError(_one_sentence(complaint.getvalue())) from None


def take_flag(arguments: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """What ``--flag VALUE`` or ``--flag=VALUE`` says before anything is parsed (the last one counts), and the other words.

    None where the flag is not given.
    """
    value, rest = None, []
    words = iter(arguments)
    for word in words:
        if word == flag:
            value = next(words, "")
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
        else:
            rest.append(word)
    return value, rest


def _one_sentence(box: str) -> str:
    """What stands in tyro's box: its message, and the first of its suggestions."""
    blocks: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        content = line.strip().strip(_BOX).strip()
        if re.fullmatch(r"[─-]*", content):
            blocks.append([])
        else:
            blocks[-1].append(content)
    filled = [block for block in blocks if block]
    sentence = re.sub(r"^Error parsing [a-z][\w.]*: ", "", " ".join(filled[0]))
    for block in filled[1:]:
        if block[0].startswith("Perhaps you meant") and len(block) > 1:
            sentence += f" (perhaps you meant {block[1].split()[0]})"
    return sentence
