"""The flags of ``dat profile``: its own, every field of the recipe, and the settings of each method that is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, make_dataclass, replace
from typing import Annotated, Any

import tyro

from dat.cli.flags import HELP, parse_flags, take_flag
from dat.cli.given import given_flags, with_given, with_what_follows
from dat.cli.train_flags import optimizer_kinds, take_recipe
from dat.methods import METHODS, method_entry
from dat.profiling.options import ProfileOptions
from dat.recipes import RECIPES, Recipe, recipe, with_optimizer_kinds
from dat_engine.errors import UserError, unknown_name

USAGE = "dat profile RECIPE [--methods dat,pgd-at,trades] [--baseline eager] [flags]"
HELP_TEXT = f"""usage: {USAGE}

What an epoch of a recipe costs, and of what phases, method by method.

recipes (dat recipes says more): {{recipes}}
methods: {{methods}}

common flags:
  --methods a,b          methods to compare (default: dat,pgd-at,trades)
  --baseline eager       also time DAT and PGD-AT-10 as published code runs them
  --json FILE            everything measured
  --picture FILE         stacked bars, .svg or .png
  --trace FILE           Chrome trace, for ui.perfetto.dev
  --batch-size N         images per step
  --data-root DIR        folder that holds the data set, or will after a download (default: data)
  --device cpu|cuda:N    default: the GPU where there is one

Every field of a recipe is a flag: dat profile RECIPE --help lists them all."""


def parse_profile_flags(arguments: Sequence[str]) -> tuple[list[Recipe], ProfileOptions]:
    """Command-line words after ``dat profile`` -> one recipe per method, and what to do with them.

    Raises:
        UserError: no recipe, an unknown one, an unknown method or one named twice, an unknown flag, a value out of range.
        SystemExit: after ``--help``.
    """
    if arguments and arguments[0] in HELP:
        print(HELP_TEXT.format(recipes=", ".join(RECIPES), methods=", ".join(METHODS)))
        raise SystemExit(0)
    name, rest = take_recipe(arguments, USAGE)
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    # which methods are named decides which further flags there are
    named, _ = take_flag(rest, "--methods")
    methods = parse_methods(ProfileOptions().methods if named is None else named)
    defaults = {
        method: with_optimizer_kinds(recipe(name, method), optimizer_kinds(rest, recipe(name, method)))
        for method in methods
    }
    default = defaults[methods[0]]
    settings: list[Any] = [
        (
            _attribute(method),
            Annotated[type(METHODS[method].settings), tyro.conf.arg(name=method)],
            field(default=defaults[method].settings),
        )
        for method in methods
    ]
    flags_type = make_dataclass(
        "Flags",
        [
            ("experiment", Annotated[Recipe, tyro.conf.arg(name="")], field(default=default)),
            ("profile", Annotated[ProfileOptions, tyro.conf.arg(name="")], field(default=ProfileOptions())),
            *settings,
        ],
        kw_only=True,
        frozen=True,
    )
    flags: Any = parse_flags(
        flags_type,
        rest,
        command=f"dat profile {name}",
        description=f"Cost of an epoch and of its phases. Methods: {', '.join(METHODS)}.",
        config=(tyro.conf.AvoidSubcommands,),
    )
    given = given_flags(rest)
    recipes = []
    for method, own in defaults.items():
        asked = with_given(replace(own, settings=getattr(flags, _attribute(method))), flags.experiment, given)
        recipes.append(with_what_follows(asked, own, given))
    return recipes, flags.profile


def parse_methods(text: str) -> list[str]:
    """``"dat,pgd-at"`` -> names of methods.

    Raises:
        UserError: a name that is no method's, none at all, or one twice.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        method_entry(name)
        if names.count(name) > 1:
            raise UserError(f"--methods names {name} twice; name every method once")
    return names


def _attribute(method: str) -> str:
    return f"settings_of_{method.replace('-', '_')}"
