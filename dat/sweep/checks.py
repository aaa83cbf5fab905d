"""What can be seen to be wrong with a sweep before any of its runs is started."""

from __future__ import annotations

from pathlib import Path

import torch

from dat.evaluation import parse_attacks
from dat.recipes import DataSettings, Recipe
from dat.sweep.file import Sweep
from dat.sweep.options import SweepOptions
from dat.sweep.run_folder import refuse_others
from dat.training.checks import check_without_data
from dat.training.data import read_split
from dat.training.device import find_device
from dat_engine.errors import UserError


def check_runs(sweep: Sweep, options: SweepOptions, folder: Path) -> None:
    """Refuse what a run would refuse at its start, without a look at images: models, methods' settings, attacks.

    Raises:
        UserError: names the run; or the sweep's `folder` cannot be one, or holds a run of another recipe.
    """
    _check_folder(folder)
    refuse_others(sweep, folder)
    device = _device(sweep, options)
    for name, recipe in _by_name(sweep).items():
        try:
            parse_attacks(recipe.evaluation.attacks)
            check_without_data(recipe, options.data_root, device)
        except UserError as error:
            raise UserError(f"run {name}: {error}") from None


def check_data(sweep: Sweep, options: SweepOptions) -> None:
    """Refuse data that are missing; what can be downloaded is, here and once, before runs look for it at the same time.

    Raises:
        UserError: names the run.
    """
    read: list[DataSettings] = []
    for name, recipe in _by_name(sweep).items():
        if recipe.data in read:
            continue
        read.append(recipe.data)
        try:
            read_split(recipe, options.data_root, "train")
            read_split(recipe, options.data_root, "test")
        except UserError as error:
            raise UserError(f"run {name}: {error}") from None


def _by_name(sweep: Sweep) -> dict[str, Recipe]:
    return {run.name: run.recipe for run in sweep.runs}


def _device(sweep: Sweep, options: SweepOptions) -> torch.device:
    """What the runs will run on; of a cluster's nodes only what the file asks of them says what they have."""
    if options.executor != "slurm":
        return find_device(options.device)
    asked = any("gpu" in f"{name}={value}" for name, value in sweep.slurm.items())
    named = options.device or ("cuda" if asked else "cpu")
    return torch.device("cpu" if named == "cpu" else "cuda")


def _check_folder(folder: Path) -> None:
    """Refuse a folder of the sweep that is a file, or lies under one."""
    for ancestor in (folder, *folder.parents):
        if ancestor.exists() and not ancestor.is_dir():
            raise UserError(f"the sweep cannot go to {folder}: {ancestor} is a file; use another --out")
