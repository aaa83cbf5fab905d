"""Which flags stand in the words of a command line, and what of a recipe follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from dat.methods import METHODS
from dat.recipes import Recipe, epoch_fields, with_data_of, with_epochs


def given_flags(words: Sequence[str]) -> frozenset[str]:
    """The flags among the words, as ``--group.field-name``; tyro takes their dashes for underscores too."""
    return frozenset(word.replace("_", "-").partition("=")[0] for word in words if word.startswith("--"))


def with_given(own: Any, chosen: Any, given: Iterable[str], prefix: str = "--") -> Any:
    """`own` with those values of `chosen` whose flags are given, nested dataclasses field by field.

    Of a group that is of another kind in `chosen`, such as an optimizer's, one flag takes the whole group along.
    """
    changes = {}
    for each in fields(own):
        mine, asked = getattr(own, each.name), getattr(chosen, each.name)
        name = each.name.replace("_", "-")
        if is_dataclass(mine) and type(mine) is type(asked):
            changes[each.name] = with_given(mine, asked, given, f"{prefix}{name}.")
        elif any(
            flag in (f"{prefix}{name}", f"{prefix}no-{name}") or flag.startswith(f"{prefix}{name}.") for flag in given
        ):
            changes[each.name] = asked
    return replace(own, **changes)


def with_what_follows(chosen: Recipe, default: Recipe, given: Iterable[str]) -> Recipe:
    """What follows from another number of epochs, or another crop, than the `default`'s; what is given itself stays."""
    entry = METHODS[chosen.method]
    flags = {name: _flag(f"settings.{name}", chosen.method) for name in entry.with_published_crop}
    flags |= {name: _flag(name, chosen.method) for name in epoch_fields(chosen.method)}
    keep = [name for name, flag in flags.items() if flag in given]
    if chosen.epochs != default.epochs:
        chosen = with_epochs(replace(chosen, epochs=default.epochs), chosen.epochs, keep=keep)
    return with_data_of(replace(chosen, data=default.data), chosen.data, keep=keep)


def _flag(field: str, method: str) -> str:
    """The flag of a recipe's field with this dotted name."""
    return f"--{field}".replace("--settings.", f"--{method}.").replace("_", "-")
