"""Tables of settings, made from the dataclasses themselves: name, type, default and docstring of every field."""

from __future__ import annotations

import ast
import inspect
import math
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One field of a dataclass as a row of a table; `name` is dotted where dataclasses are nested."""

    name: str
    type: str
    default: str
    meaning: str


def settings_of(instance: Any, prefix: str = "") -> Iterator[Setting]:
    """The fields of `instance`, a dataclass value whose own values count as defaults; nested dataclasses field by field.

    Fields that the command line suppresses (a recipe's name and method, which are chosen first) are left out.
    """
    kind = type(instance)
    meanings = field_docstrings(kind)
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if _is_suppressed(hints[field.name]):
            continue
        value = getattr(instance, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from settings_of(value, f"{prefix}{field.name}.")
            continue
        yield Setting(
            name=f"{prefix}{field.name}".replace("_", "-"),
            type=type_text(hints[field.name]),
            default=value_text(value),
            meaning=meanings.get(field.name, ""),
        )


def options_of(kind: type[Any]) -> Iterator[Setting]:
    """The fields of a dataclass that cannot be made without arguments; a field without default is an argument by place."""
    meanings = field_docstrings(kind)
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        needed = field.default is MISSING and field.default_factory is MISSING
        yield Setting(
            name=field.name.upper() if needed else field.name.replace("_", "-"),
            type=type_text(hints[field.name]),
            default="" if needed else value_text(field.default),
            meaning=meanings.get(field.name, ""),
        )


def groups_of(instance: Any) -> Iterator[tuple[str, str, Any]]:
    """(name, docstring, value) of the nested dataclasses of `instance`."""
    meanings = field_docstrings(type(instance))
    for field in fields(instance):
        value = getattr(instance, field.name)
        if is_dataclass(value) and not isinstance(value, type) and not _is_suppressed(_hint(instance, field.name)):
            about = meanings.get(field.name) or (inspect.getdoc(type(value)) or "").split("\n\n")[0]
            yield field.name.replace("_", "-"), about.replace("\n", " "), value


def table(settings: Iterator[Setting], *, flag_prefix: str = "--") -> str:
    """A Markdown table of `settings`, each under the name of its flag."""
    lines = ["| flag | type | default | meaning |", "|---|---|---|---|"]
    for setting in settings:
        name = setting.name if setting.name.isupper() else f"{flag_prefix}{setting.name}"
        default = f"`{setting.default}`" if setting.default else ""
        lines.append(f"| `{name}` | {_cell(setting.type)} | {default} | {_cell(setting.meaning)} |")
    return "\n".join(lines)


def field_docstrings(kind: type[Any]) -> dict[str, str]:
    """The string that stands below each field of the dataclass `kind`, or of one that it extends, in its source, as a line."""
    found: dict[str, str] = {}
    for one in reversed([each for each in kind.__mro__ if is_dataclass(each)]):
        found |= _own_docstrings(one)
    return found


def _own_docstrings(kind: type[Any]) -> dict[str, str]:
    (definition,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[statement.target.id] = " ".join(below.value.value.split())
    return found


def type_text(hint: Any) -> str:
    """A type as a reader of a table wants it: ``number``, ``"a" or "b"``, ``whole number or none``."""
    origin = get_origin(hint)
    if hasattr(hint, "__metadata__"):  # Annotated
        return type_text(hint.__origin__)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in get_args(hint))
    if origin is tuple:
        return f"{type_text(get_args(hint)[0])}s"
    if hint is type(None):
        return "none"
    return {int: "whole number", float: "number", str: "text", bool: "yes or no", Path: "path"}.get(hint, str(hint))


def value_text(value: Any) -> str:
    """A default as one would type it; radii come as fractions of 255."""
    if isinstance(value, tuple):
        return " ".join(value_text(item) for item in value) or "none"
    if isinstance(value, float):
        levels = value * 255
        if levels > 0.5 and math.isclose(levels, round(levels), rel_tol=1e-9) and value < 1:
            return f"{round(levels)}/255"
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)


def _hint(instance: Any, name: str) -> Any:
    return get_type_hints(type(instance), include_extras=True)[name]


def _is_suppressed(hint: Any) -> bool:
    suppressed = getattr(tyro.conf.Suppress[int], "__metadata__", ())
    return any(mark in suppressed for mark in getattr(hint, "__metadata__", ()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
