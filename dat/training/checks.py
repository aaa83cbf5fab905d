"""What can be seen to be wrong with a recipe before an image is read."""

from __future__ import annotations

from pathlib import Path

import torch

from dat import models
from dat.methods import METHODS
from dat.methods.task import Task
from dat.recipes import Recipe
from dat.training.build import build_model
from dat.training.data import check_data_root, file_settings
from dat.training.views import augmentation, check_labels, view_augmentations
from dat_engine.data import DatasetDescription, ImageArrays, dali_installed, describe, needs_files
from dat_engine.data.augmentations.epoch import check_augmentations
from dat_engine.errors import UserError
from dat_engine.step.method import Method
from dat_engine.step.weight_settings import check_starts


def check_without_data(recipe: Recipe, data_root: Path, device: torch.device) -> None:
    """Refuse what can be seen to be wrong before an image is read or downloaded; creates nothing.

    Classifier and method are built once without memory for their weights (device meta), so that whatever they refuse for
    these settings and this size of image is refused now.

    Raises:
        UserError: an unknown model or data set, a loader that is not installed, settings that do not fit, a data root that
            does not exist, an execution that the device has not.
    """
    models.check_name(recipe.model.name)
    if recipe.schedule.warmup_epochs >= recipe.epochs:
        raise UserError(
            f"schedule.warmup_epochs is {recipe.schedule.warmup_epochs:g} and the run has {recipe.epochs} epochs, so the "
            "learning rate would never be reached; make the warm-up shorter than the run"
        )
    METHODS[recipe.method].check_epochs(recipe.method, recipe.settings, recipe.epochs)
    check_starts(recipe.awp, recipe.swa, epochs=recipe.epochs)
    if recipe.data.loader == "dali" and not dali_installed():
        raise UserError(
            "--data.loader dali needs NVIDIA DALI; install it with: pip install 'dat-engine[dali]' (Linux), or choose "
            "auto, resident or torchvision"
        )
    if recipe.engine.execution == "graphed" and device.type != "cuda":
        raise UserError(
            f"--engine.execution graphed is one CUDA graph per step, and {device} has none; use auto, eager or compiled"
        )
    if needs_files(recipe.data.name):
        check_data_root(data_root)
    description = describe(recipe.data.name, data_root, files=file_settings(recipe))
    task = Task(
        num_classes=description.num_classes,
        image_shape=description.image_shape,
        epsilon=recipe.epsilon,
        training_images=lambda: _one_image(description),
        augmentation=augmentation(recipe),
    )
    with torch.device("meta"):
        build_model(recipe, task.num_classes, task.image_shape)
        method: Method = METHODS[recipe.method].create(recipe.settings, task)
    views = view_augmentations(recipe, method, task.image_shape)
    check_augmentations(*views, task.image_shape, recipe.batch_size)
    check_labels(views[0], method, recipe.method)


def _one_image(description: DatasetDescription) -> ImageArrays:
    """Stands in for images that nobody has read yet."""
    return ImageArrays(
        images=torch.zeros((1, *description.image_shape), dtype=torch.uint8, device="cpu"),
        targets=torch.zeros(1, dtype=torch.int64, device="cpu"),
        class_names=description.class_names,
    )
