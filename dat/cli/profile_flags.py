"""The flags of ``dat profile``: its own, every field of the recipe, and the settings of each method that is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from typing import Annotated, Any

import tyro

from dat.cli.flags import HELP, parse_flags, take_flag
from dat.cli.train_flags import optimizer_kinds, take_recipe
from dat.methods import METHODS, method_entry
from dat.profiling.options import ProfileOptions
from dat.recipes import RECIPES, Recipe, recipe, with_epochs, with_optimizer_kinds
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
    chosen = replace(flags.experiment, name=name, method=methods[0], settings=default.settings)
    recipes = [_of_method(defaults[method], getattr(flags, _attribute(method)), default, chosen) for method in methods]
    return recipes, flags.profile


def _of_method(own: Recipe, settings: Any, default: Recipe, chosen: Recipe) -> Recipe:
    """A method's `own` recipe with these settings, and with what flags have changed in `chosen` of the `default` they show."""
    counted = METHODS[own.method].epoch_settings
    keep = [f"settings.{name}" for name in counted if getattr(settings, name) != getattr(own.settings, name)]
    own = replace(own, settings=settings)
    if chosen.epochs != default.epochs:
        own = with_epochs(own, chosen.epochs, keep=keep)
    changed: Recipe = _with_changes(own, default, chosen)
    return changed


def _with_changes(own: Any, before: Any, after: Any) -> Any:
    """`own` with the values of `after` where they differ from `before`, nested dataclasses field by field."""
    changes = {}
    for each in fields(own):
        mine, old, new = (getattr(value, each.name) for value in (own, before, after))
        if old != new:
            nested = is_dataclass(mine) and type(mine) is type(old) is type(new)
            changes[each.name] = _with_changes(mine, old, new) if nested else new
    return replace(own, **changes)


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
