"""`dat.train`: the command ``dat train`` as a function."""

from __future__ import annotations

import os
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from dat.recipes import Recipe
from dat.recipes.by_keyword import chosen_recipe
from dat.recipes.reading import recipe_from_dict, with_exactly
from dat.training.options import DisplayStyle, RunOptions, default_run_dir, run_options_from_dict
from dat.training.run import Run
from dat.training.train import train_recipe
from dat_engine.errors import UserError
from dat_engine.run.run_directory import RunDirectory

OPTIONS = tuple(field.name for field in dataclass_fields(RunOptions) if field.name != "config")


def train(
    recipe: str | Recipe | None = None,
    method: object | None = None,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    device: str | None = None,
    max_steps: int | None = None,
    time_limit: str | float | None = None,
    resume: bool = False,
    progress: DisplayStyle | None = None,
    **fields: Any,
) -> Run:
    """Train a recipe, evaluate it, and leave a run directory behind: what ``dat train`` does, with the same result.

    ``dat.train("cifar10-resnet18", method="dat", epochs=30, data_root="data", run_dir="runs/a")``

    Callable in a notebook and in any thread, and again in the same process. In the main thread Ctrl+C and SIGTERM let the
    step finish and save the run, whose `ending` is then ``signal``; the handlers that were there come back.

    Args:
        recipe: a recipe's name, or what `dat.recipe` returned. None: that of the run that is resumed.
        method: a method's name, or its settings (``dat.methods.DAT(beta=6)``); None: the recipe's own, ``dat`` of a name.
        run_dir: where the run goes; None: ``runs/RECIPE-METHOD``.
        data_root: folder that holds the data set, or will after a download; None: ``data``.
        device: cpu, cuda or cuda:N; None: the GPU where there is one.
        max_steps: stop after this many steps of the whole run.
        time_limit: stop and save after this long from now, in seconds or such as ``"9m"``; `resume` goes on.
        resume: go on with the run in `run_dir`; what is not given is as it was there.
        progress: auto (a live display on a terminal, lines elsewhere, a notebook included), terminal, plain or silent.
        fields: of the recipe, as for `dat.recipe`.

    Raises:
        UserError: wrong input; one sentence that says what was given and what to do; nothing has been written.
        RunFailedError, ProcessesError, NonFiniteError: the run began well and cannot go on; what was saved remains.
    """
    given: dict[str, Any] = {
        "data_root": None if data_root is None else Path(data_root),
        "device": device,
        "max_steps": max_steps,
        "time_limit": time_limit if time_limit is None or isinstance(time_limit, str) else f"{time_limit:.6f}",
        "progress": progress,
    }
    named = {name: value for name, value in given.items() if value is not None}
    path = None if run_dir is None else Path(run_dir)
    if resume:
        return train_recipe(*_resumed(recipe, method, path, named, fields))
    if recipe is None:
        raise UserError(
            'name the recipe: dat.train("cifar10-resnet18"), or the run to go on with: resume=True, run_dir=…'
        )
    chosen = chosen_recipe(recipe, method, fields, besides=OPTIONS)
    return train_recipe(chosen, RunOptions(run_dir=path, **named))


def _resumed(
    recipe: str | Recipe | None, method: object | None, path: Path | None, named: dict[str, Any], fields: dict[str, Any]
) -> tuple[Recipe, RunOptions]:
    """Recipe and options of the run at `path`, with what is given besides; whether they may change `train_recipe` knows."""
    if path is None:
        if recipe is None:
            raise UserError("name the run to resume: dat.train(resume=True, run_dir=…)")
        chosen = chosen_recipe(recipe, method, {})
        path = default_run_dir(chosen.name, chosen.method)
    run = RunDirectory.open(path)
    begun = recipe_from_dict(run.config, source=str(path / "config.json"))
    if isinstance(recipe, str) and recipe != begun.name:
        raise UserError(f"{path} holds a run of recipe {begun.name}, not {recipe}; leave the recipe out to resume it")
    chosen = chosen_recipe(recipe if isinstance(recipe, Recipe) else begun, method, {})
    chosen = with_exactly(chosen, fields, besides=OPTIONS)
    own = run_options_from_dict(run.options, run_dir=path)
    options = {name: getattr(own, name) for name in OPTIONS if name not in ("run_dir", "resume")}
    return chosen, RunOptions(run_dir=path, resume=True, **{**options, **named})
