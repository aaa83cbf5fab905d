"""The flags of ``dat train``, made by tyro from the recipe's own dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, make_dataclass, replace
from typing import Annotated, Any

import tyro

from dat.cli.flags import parse_flags, take_flag
from dat.methods import METHODS
from dat.recipes import RECIPES, Recipe, recipe, with_data_of, with_epochs, with_optimizer_kinds
from dat.training.train import RunOptions
from dat_engine.run.schedule import Schedule

USAGE = "dat train RECIPE [--method METHOD] [flags]"


def parse_train_flags(arguments: Sequence[str]) -> tuple[Recipe, RunOptions]:
    """Command-line words after ``dat train`` -> the experiment and where to run it.

    Raises:
        ValueError: no recipe, an unknown one, an unknown method, an unknown flag, a value out of range.
        SystemExit: after ``--help``.
    """
    name, rest = take_recipe(arguments, USAGE)
    # which method it is decides which further flags there are
    named, rest = take_flag(rest, "--method")
    method = "dat" if named is None else named
    default = with_optimizer_kinds(recipe(name, method), optimizer_kinds(rest))
    flags_type = make_dataclass(
        "Flags",
        [
            ("experiment", Annotated[Recipe, tyro.conf.arg(name="")], field(default=default)),
            (
                "settings",
                Annotated[type(default.settings), tyro.conf.arg(name=method)],
                field(default=default.settings),
            ),
            ("run", Annotated[RunOptions, tyro.conf.arg(name="")], field(default=RunOptions())),
        ],
        kw_only=True,
        frozen=True,
    )
    flags: Any = parse_flags(
        flags_type,
        rest,
        command=f"dat train {name} --method {method}",
        description=f"{METHODS[method].summary}. Methods: {', '.join(METHODS)}.",
        config=(tyro.conf.AvoidSubcommands,),
    )
    chosen = replace(flags.experiment, name=name, method=method, settings=flags.settings)
    # what follows from other flags, unless it was asked for itself
    if chosen.epochs != default.epochs:
        chosen = replace(chosen, schedule=_for_the_epochs(chosen, default, rest))
    if not _given(rest, "--dat.mix-padding"):
        chosen = with_data_of(replace(chosen, data=default.data), chosen.data)
    return chosen, flags.run


def optimizer_kinds(words: Sequence[str]) -> dict[str, str]:
    """What ``--optimizer.kind`` and ``--generator-optimizer.kind`` say: it decides which further flags there are."""
    flags = {"optimizer": "--optimizer.kind", "generator_optimizer": "--generator-optimizer.kind"}
    named = {name: take_flag([word.replace("_", "-") for word in words], flag)[0] for name, flag in flags.items()}
    return {name: kind for name, kind in named.items() if kind is not None}


def _for_the_epochs(chosen: Recipe, default: Recipe, words: Sequence[str]) -> Schedule:
    """The schedule for another number of epochs than the recipe's; what the words name stays as it is."""
    rescaled = with_epochs(replace(chosen, epochs=default.epochs), chosen.epochs).schedule
    named = [name for name in ("milestones", "warmup_epochs") if _given(words, f"--schedule.{name.replace('_', '-')}")]
    return replace(rescaled, **{name: getattr(chosen.schedule, name) for name in named})


def _given(words: Sequence[str], flag: str) -> bool:
    """Whether the flag is among the words; tyro takes its dashes for underscores too."""
    return any(word.replace("_", "-").split("=")[0] == flag for word in words)


def take_recipe(arguments: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """The recipe's name, which is the first word, and the words after it.

    Raises:
        ValueError: there is none; whether a recipe has that name is not looked at.
    """
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"name the recipe first: {usage}; recipes are {', '.join(RECIPES)}")
    return arguments[0], list(arguments[1:])
