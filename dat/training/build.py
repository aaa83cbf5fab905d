"""From a recipe to the objects that run it: data, classifier, method."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dat import models
from dat.methods import METHODS
from dat.methods.task import Task
from dat.recipes import Recipe
from dat.training.options import DEFAULT_DATA_ROOT
from dat_engine.attack.attack_model import Branching
from dat_engine.data import (
    Augmentation,
    Batch,
    CutMix,
    DatasetDescription,
    FileSettings,
    ImageArrays,
    ImageSource,
    Loader,
    RandomResizedCrop,
    dali_installed,
    describe,
    hold_out,
    load,
    named_augmentation,
    needs_files,
    open_loader,
    take,
)
from dat_engine.data.augmentations.epoch import check_augmentations
from dat_engine.distributed import ONE_PROCESS, Processes
from dat_engine.errors import UserError
from dat_engine.model.branches import has_batchnorm
from dat_engine.model.synchronised import synchronise_batchnorm
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.graph import GraphedStep
from dat_engine.step.method import Method
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import AWPSettings, check_starts


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The training loader, the method that its views are made for, and the images held out from it; `validation` is None
    where the recipe holds none out.
    """

    loader: Loader
    method: Method
    train: ImageSource
    validation: ImageSource | None


def choose_device(name: str | None) -> torch.device:
    """``"cpu"``, ``"cuda"`` or ``"cuda:1"`` -> device, made the current one; None: the GPU where there is one.

    Under torchrun ``"cuda"`` is each process's own GPU.

    Raises:
        UserError: a device that is not there.
    """
    device = find_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def find_device(name: str | None) -> torch.device:
    """`choose_device`, but that nothing begins to use it: a GPU may be there for other processes alone.

    Raises:
        UserError: a device that is not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device is called {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index >= found:
            raise UserError(f"device {name} is not there: torch {torch.__version__} sees {found} CUDA devices; use cpu")
    elif device.type != "cpu":
        raise UserError(f"device {name} is not supported; use cpu or cuda")
    return device


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
    description = describe(recipe.data.name, data_root, files=_file_settings(recipe))
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


def augmentation(recipe: Recipe) -> Augmentation | RandomResizedCrop:
    """Crop and flip of the recipe's training images; what is done besides, `view_augmentations` says."""
    if recipe.data.augmentation == "none":
        return Augmentation(padding=0, flip=False)
    if recipe.data.crop == "resized":
        return RandomResizedCrop(flip=recipe.data.flip)
    return Augmentation(padding=recipe.data.padding, flip=recipe.data.flip)


def view_augmentations(
    recipe: Recipe, method: Method, image_shape: tuple[int, int, int]
) -> tuple[Augmentation | RandomResizedCrop, Augmentation | RandomResizedCrop]:
    """What is done to the first view of the recipe's training images, and to the method's extra ones."""
    first = recipe.data.augmentation
    extra = first if method.extra_augmentation is None else method.extra_augmentation
    one, other = (
        named_augmentation(name, augmentation(recipe), data_set=recipe.data.name, image_shape=image_shape)
        for name in (first, extra)
    )
    return one, other


def check_labels(augmentation: Augmentation | RandomResizedCrop, method: Method, name: str) -> None:
    """Refuse mixed labels where the method, called `name`, needs one class for each image."""
    if isinstance(augmentation.then, CutMix) and not method.takes_soft_labels:
        raise UserError(
            f"the augmentation cutmix mixes labels, and {name} needs one class for each image; choose another augmentation, or "
            "a method that takes soft labels"
        )


def load_test_data(
    recipe: Recipe, data_root: Path, limit: int | None, processes: Processes = ONE_PROCESS
) -> ImageSource:
    """The test split, or a class-balanced part of it.

    Raises:
        UserError: missing or damaged data, or a limit beyond the split.
    """
    source = read_split(recipe, data_root, "test", processes)
    return source if limit is None else take(source, limit, seed=0)


def _file_settings(recipe: Recipe) -> FileSettings:
    data = recipe.data
    return FileSettings(image_size=data.image_size, resize=data.resize, on_damaged=data.on_damaged)


def read_split(
    recipe: Recipe, data_root: Path, split: Literal["train", "test"], processes: Processes = ONE_PROCESS
) -> ImageSource:
    """One split; with many processes the first one reads, and downloads what is missing, before the others look.

    Raises:
        UserError: missing or damaged data.
    """
    data, files = recipe.data, _file_settings(recipe)
    source: ImageSource | None = None
    for first in (True, False):
        with processes.failing_together():
            if processes.is_main is first:
                source = load(data.name, root=data_root, split=split, download=first, files=files)
    assert source is not None
    return source


def build_model(recipe: Recipe, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The recipe's classifier, initialised from the recipe's seed, with the BatchNorm branches that its method uses, and what
    the method puts around it.
    """
    entry = METHODS[recipe.method]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        classifier = models.build(
            recipe.model.name,
            num_classes=num_classes,
            width=recipe.model.width,
            in_channels=image_shape[0],
            image_size=image_shape[1:],
            branches=entry.branches(recipe.settings),
        )
        network: nn.Module = entry.create.network(recipe.settings, classifier)
        return network


def build_method(recipe: Recipe, train: ImageSource) -> Method:
    """The recipe's method, its own networks (where it has any) initialised from the recipe's seed."""
    task = Task(
        num_classes=train.num_classes,
        image_shape=train.image_shape,
        epsilon=recipe.epsilon,
        training_images=lambda: train,
        augmentation=augmentation(recipe),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        method: Method = METHODS[recipe.method].create(recipe.settings, task)
    return method


def build_step(recipe: Recipe, model: nn.Module, method: Method, processes: Processes = ONE_PROCESS) -> TrainingStep:
    """The training step of `recipe` on the model's device; `executor` says how it is called."""
    device = next(model.parameters()).device
    if recipe.engine.synchronise_batchnorm and processes.world_size > 1:
        synchronise_batchnorm(model)
        for player in method.players(model):
            if player.network is not model:
                synchronise_batchnorm(player.network)
    if processes.is_main:
        _say_what_sharing_costs(recipe, model)
    return TrainingStep(
        model,
        method,
        optimizer=recipe.optimizer,
        precision=recipe.precision.on(device),
        weight_perturbation=weight_perturbation(recipe.awp),
        ema=recipe.ema,
        swa=recipe.swa,
        branching=branching(recipe, device),
        compiled=execution(recipe, device, processes) != "eager",
        switches=recipe.engine,
        processes=processes,
        seed=recipe.seed,
    )


def weight_perturbation(settings: AWPSettings) -> AdversarialWeightPerturbation | None:
    """What `settings` ask for; None where they leave the weights where they are."""
    return None if settings.gamma is None else AdversarialWeightPerturbation(settings.gamma, settings.start)


def _say_what_sharing_costs(recipe: Recipe, model: nn.Module) -> None:
    entry = METHODS[recipe.method]
    branches = entry.branches(recipe.settings)
    if entry.without_branches is not None and len(branches) > 1 and not has_batchnorm(model):
        warnings.warn(
            f"{recipe.model.name} has no BatchNorm, so the branches of {recipe.method} share its normalisation: "
            f"{entry.without_branches}",
            stacklevel=3,
        )


def executor(
    recipe: Recipe, step: TrainingStep, processes: Processes = ONE_PROCESS
) -> Callable[[Batch], dict[str, Tensor]]:
    """What takes a batch through `step`: the step itself, or its graph."""
    return GraphedStep(step) if execution(recipe, step.device, processes) == "graphed" else step


def execution(
    recipe: Recipe, device: torch.device, processes: Processes = ONE_PROCESS
) -> Literal["eager", "compiled", "graphed"]:
    """The recipe's way of running the step, with ``auto`` decided for `device`."""
    if recipe.engine.execution == "auto":
        if device.type != "cuda":
            return "eager"
        return "graphed" if processes.world_size == 1 else "compiled"
    return recipe.engine.execution


def branching(recipe: Recipe, device: torch.device) -> Branching:
    """How the recipe's attack runs groups of several branches, with ``auto`` decided for `device`."""
    if recipe.engine.branching == "auto":
        return "grouped" if device.type == "cuda" and not recipe.engine.fused_epilogues else "folded"
    return recipe.engine.branching
