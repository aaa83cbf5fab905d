"""The flags of ``dat train``, made by tyro from the recipe's own dataclasses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from dat.cli.flags import HELP, parse_flags, take_flag
from dat.cli.given import given_flags, with_what_follows
from dat.methods import METHODS
from dat.recipes import RECIPES, Recipe, recipe, with_optimizer_kinds
from dat.recipes.reading import read_recipe_file, recipe_from_dict
from dat.training.options import (
    DEFAULT_DATA_ROOT,
    RunOptions,
    default_run_dir,
    recorded_data_root,
    run_options_from_dict,
)
from dat.training.resumption import refuse_other_numbers
from dat_engine.errors import UserError, unknown_name
from dat_engine.step.optimizer_settings import OptimizerSettings

USAGE = "dat train RECIPE [--method METHOD] [flags]"
HELP_TEXT = f"""usage: {USAGE}
       dat train --config FILE [flags]           a new run by the recipe of another run's config.json, or of a YAML file
       dat train --resume --run-dir RUN [flags]  go on with a run, by its own config.json

Train a recipe, evaluate it, and leave a run directory behind.

recipes (dat recipes says more): {{recipes}}
methods: {{methods}}

common flags:
  --data-root DIR        folder that holds the data set, or will after a download (default: data)
  --run-dir DIR          where the run goes (default: runs/RECIPE-METHOD)
  --epochs N             length; milestones of the schedule, and starts in epochs, keep their share of it
  --batch-size N         images per step and process
  --epsilon 8/255        radius of the threat model
  --model.width N        channels of the first stage
  --limit-train N        train on N images only
  --time-limit 1h30m     stop and save after this long; --resume goes on
  --device cpu|cuda:N    default: the GPU where there is one

Every field of a recipe is a flag: dat train RECIPE --help lists them all."""


def parse_train_flags(arguments: Sequence[str]) -> tuple[Recipe, RunOptions]:
    """Command-line words after ``dat train`` -> the experiment and where to run it.

    Raises:
        UserError: no recipe, an unknown one, an unknown method, an unknown flag, a value out of range, a change that a
            resumed run does not allow.
        SystemExit: after ``--help``.
    """
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    words = list(arguments[1:] if name is not None else arguments)
    if name is None and any(word in HELP for word in words):
        print(HELP_TEXT.format(recipes=", ".join(RECIPES), methods=", ".join(METHODS)))
        raise SystemExit(0)
    # which method it is decides which further flags there are
    method, words = take_flag(words, "--method")
    resume = "--resume" in words
    _check_names(name, method)
    if resume:
        _refuse_value_of_resume(words)
    config, _ = take_flag(words, "--config")
    if config is not None and resume:
        raise UserError("--config begins a new run and --resume goes on with one; give one of the two")
    if resume:
        return _resumed(name, method, words)
    if config is not None:
        return _by_file(Path(config), name, method, words)
    if name is None:
        raise UserError(
            f"name the recipe first: {USAGE}; or a recipe file by --config; recipes are {', '.join(RECIPES)}"
        )
    return _parse(words, recipe(name, method or "dat"), RunOptions())


def _refuse_value_of_resume(words: list[str]) -> None:
    following = dict(itertools.pairwise(words)).get("--resume", "--")
    if not following.startswith("-"):
        raise UserError(f"--resume takes no value; name the run by --run-dir: dat train --resume --run-dir {following}")


def _check_names(name: str | None, method: str | None) -> None:
    if name is not None and name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    if method is not None and method not in METHODS:
        raise unknown_name("method", method, METHODS)


def _resumed(name: str | None, method: str | None, words: list[str]) -> tuple[Recipe, RunOptions]:
    """Recipe and options of the run that is named, with the flags given besides."""
    # imports what reads checkpoints, and with it torch; --resume trains, so that it is needed anyhow
    from dat_engine.run.run_directory import RunDirectory

    named, _ = take_flag(words, "--run-dir")
    if named is None and name is None:
        raise UserError("name the run to resume: dat train --resume --run-dir RUN")
    path = Path(named) if named is not None else default_run_dir(str(name), method or "dat")
    run = RunDirectory.open(path)
    begun = recipe_from_dict(run.config, source=str(path / "config.json"))
    for word, given, own in (("recipe", name, begun.name), ("method", method, begun.method)):
        if given is not None and given != own:
            raise UserError(
                f"{path} holds a run of {word} {own}, not {given}; leave the {word} out to resume it, or start a new run in "
                "another --run-dir"
            )
    options = run_options_from_dict(run.options, run_dir=path)
    chosen, options = _parse([word for word in words if word != "--resume"], begun, options, follows=False)
    refuse_other_numbers(begun, chosen, path)
    return chosen, replace(options, resume=True)


def _by_file(path: Path, name: str | None, method: str | None, words: list[str]) -> tuple[Recipe, RunOptions]:
    """The recipe of a file and the data root that it names, with the flags given besides."""
    base, run = read_recipe_file(path)
    for word, given, own in (("recipe", name, base.name), ("method", method, base.method)):
        if given is not None and given != own:
            raise UserError(f"{path} is of {word} {own}, not {given}; leave the {word} out, or the file")
    return _parse(words, base, RunOptions(data_root=recorded_data_root(run) or DEFAULT_DATA_ROOT))


def _parse(
    words: list[str], default: Recipe, options: RunOptions, *, follows: bool = True
) -> tuple[Recipe, RunOptions]:
    """The flags over their defaults; `follows`: another number of epochs takes the milestones along, and the like."""
    method = default.method
    default = with_optimizer_kinds(default, optimizer_kinds(words, default))
    flags_type = make_dataclass(
        "Flags",
        [
            ("experiment", Annotated[Recipe, tyro.conf.arg(name="")], field(default=default)),
            (
                "settings",
                Annotated[type(default.settings), tyro.conf.arg(name=method)],
                field(default=default.settings),
            ),
            ("run", Annotated[RunOptions, tyro.conf.arg(name="")], field(default=options)),
        ],
        kw_only=True,
        frozen=True,
    )
    flags: Any = parse_flags(
        flags_type,
        words,
        command=f"dat train {default.name} --method {method}",
        description=f"{METHODS[method].summary}. Methods: {', '.join(METHODS)}.",
        early=("--method",),
        config=(tyro.conf.AvoidSubcommands,),
    )
    chosen = replace(flags.experiment, name=default.name, method=method, settings=flags.settings)
    if follows:
        chosen = with_what_follows(chosen, default, given_flags(words))
    return chosen, flags.run


def optimizer_kinds(words: Sequence[str], recipe: Recipe) -> dict[str, str]:
    """What flags such as ``--optimizer.kind`` say of the recipe's optimizers: it decides which further flags there are."""
    flags = {"optimizer": "--optimizer.kind"}
    for own in fields(recipe.settings):
        if isinstance(getattr(recipe.settings, own.name), OptimizerSettings):
            flags[f"settings.{own.name}"] = f"--{recipe.method}.{own.name.replace('_', '-')}.kind"
    named = {name: take_flag([word.replace("_", "-") for word in words], flag)[0] for name, flag in flags.items()}
    return {name: kind for name, kind in named.items() if kind is not None}


def take_recipe(arguments: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """The recipe's name, which is the first word, and the words after it.

    Raises:
        UserError: there is none; whether a recipe has that name is not looked at.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"name the recipe first: {usage}; recipes are {', '.join(RECIPES)}")
    return arguments[0], list(arguments[1:])
