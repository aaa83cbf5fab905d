"""The images of a recipe: for training, held out, for the test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dat.recipes import Recipe
from dat.training.build import build_method
from dat.training.options import DEFAULT_DATA_ROOT
from dat.training.views import view_augmentations
from dat_engine.data import FileSettings, ImageSource, Loader, hold_out, load, open_loader, take
from dat_engine.distributed import ONE_PROCESS, Processes
from dat_engine.errors import UserError
from dat_engine.step.method import Method


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The training loader, the method that its views are made for, and the images held out from it; `validation` is None
    where the recipe holds none out.
    """

    loader: Loader
    method: Method
    train: ImageSource
    validation: ImageSource | None


def check_data_root(data_root: Path) -> None:
    """Refuse a folder that does not exist: a download into a misspelt one would be lost. The default may be made."""
    if data_root != DEFAULT_DATA_ROOT and not data_root.expanduser().exists():
        raise UserError(
            f"the data root {data_root} does not exist; give the folder that holds the data by --data-root, or, to download "
            f"into it, create it first: mkdir -p {data_root}"
        )


def load_training_data(
    recipe: Recipe, data_root: Path, device: torch.device, processes: Processes = ONE_PROCESS
) -> TrainingData:
    """Read, limit, hold out, build the method, and open the loader with the views that it needs.

    Raises:
        UserError: missing or damaged data, or a size that does not fit it.
    """
    source = read_split(recipe, data_root, "train", processes)
    validation = None
    if recipe.data.validation:
        source, validation = hold_out(source, recipe.data.validation, recipe.seed)
    if recipe.limit_train is not None:
        source = take(source, recipe.limit_train, recipe.seed)
    method = build_method(recipe, source)
    first, extra = view_augmentations(recipe, method, source.image_shape)
    with processes.failing_together():  # it may decode every file
        loader = open_loader(
            recipe.data.loader,
            source,
            batch_size=recipe.batch_size,
            augmentation=first,
            workers=recipe.data.workers,
            seed=recipe.seed,
            device=device,
            rank=processes.rank,
            world_size=processes.world_size,
            extra_views=method.extra_views,
            extra_augmentation=extra,
        )
    return TrainingData(loader=loader, method=method, train=source, validation=validation)


def load_test_data(
    recipe: Recipe, data_root: Path, limit: int | None, processes: Processes = ONE_PROCESS
) -> ImageSource:
    """The test split, or a class-balanced part of it.

    Raises:
        UserError: missing or damaged data, or a limit beyond the split.
    """
    source = read_split(recipe, data_root, "test", processes)
    return source if limit is None else take(source, limit, seed=0)


def file_settings(recipe: Recipe) -> FileSettings:
    data = recipe.data
    return FileSettings(image_size=data.image_size, resize=data.resize, on_damaged=data.on_damaged)


def read_split(
    recipe: Recipe, data_root: Path, split: Literal["train", "test"], processes: Processes = ONE_PROCESS
) -> ImageSource:
    """One split; with many processes the first one reads, and downloads what is missing, before the others look.

    Raises:
        UserError: missing or damaged data.
    """
    data, files = recipe.data, file_settings(recipe)
    source: ImageSource | None = None
    for first in (True, False):
        with processes.failing_together():
            if processes.is_main is first:
                source = load(data.name, root=data_root, split=split, download=first, files=files)
    assert source is not None
    return source
