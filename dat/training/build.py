"""From a recipe to the objects that run it: data, classifier, method."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dat import models
from dat.methods import METHODS, Task
from dat.methods.dat.amplitude import mean_amplitude
from dat.recipes import Recipe
from dat_engine.data import (
    Augmentation,
    Batch,
    FileSettings,
    ImageSource,
    Loader,
    RandomResizedCrop,
    hold_out,
    load,
    open_loader,
    take,
)
from dat_engine.distributed import Processes
from dat_engine.model.synchronised import synchronise_batchnorm
from dat_engine.step.graph import GraphedStep
from dat_engine.step.method import Method
from dat_engine.step.training_step import ONE_PROCESS, TrainingStep


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The training loader and the images held out from it; `validation` is None where the recipe holds none out."""

    loader: Loader
    train: ImageSource
    validation: ImageSource | None


def choose_device(name: str | None) -> torch.device:
    """``"cpu"``, ``"cuda"`` or ``"cuda:1"`` -> device, made the current one; None: the GPU where there is one.

    Under torchrun ``"cuda"`` is each process's own GPU.

    Raises:
        ValueError: a device that is not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"no device is called {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index >= found:
            raise ValueError(
                f"device {name} is not there: torch {torch.__version__} sees {found} CUDA devices; use cpu"
            )
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise ValueError(f"device {name} is not supported; use cpu or cuda")
    return device


def load_training_data(
    recipe: Recipe, data_root: Path, device: torch.device, processes: Processes = ONE_PROCESS
) -> TrainingData:
    """Read, limit, hold out, and open the loader.

    Raises:
        ValueError: missing or damaged data, or a size that does not fit it.
    """
    source = _read(recipe, data_root, "train", processes)
    validation = None
    if recipe.data.validation:
        source, validation = hold_out(source, recipe.data.validation, recipe.seed)
    if recipe.limit_train is not None:
        source = take(source, recipe.limit_train, recipe.seed)
    augmentation = (
        RandomResizedCrop(flip=recipe.data.flip)
        if recipe.data.crop == "resized"
        else Augmentation(padding=recipe.data.padding, flip=recipe.data.flip)
    )
    loader = open_loader(
        recipe.data.loader,
        source,
        batch_size=recipe.batch_size,
        augmentation=augmentation,
        workers=recipe.data.workers,
        seed=recipe.seed,
        device=device,
        rank=processes.rank,
        world_size=processes.world_size,
    )
    return TrainingData(loader=loader, train=source, validation=validation)


def load_test_data(
    recipe: Recipe, data_root: Path, limit: int | None, processes: Processes = ONE_PROCESS
) -> ImageSource:
    """The test split, or a class-balanced part of it.

    Raises:
        ValueError: missing or damaged data, or a limit beyond the split.
    """
    source = _read(recipe, data_root, "test", processes)
    return source if limit is None else take(source, limit, seed=0)


def _read(recipe: Recipe, data_root: Path, split: Literal["train", "test"], processes: Processes) -> ImageSource:
    """One split; with many processes the first one reads, and downloads what is missing, before the others look."""
    data = recipe.data
    files = FileSettings(image_size=data.image_size, resize=data.resize, on_damaged=data.on_damaged)
    if not processes.is_main:
        processes.barrier()
    source = load(data.name, root=data_root, split=split, download=processes.is_main, files=files)
    if processes.is_main:
        processes.barrier()
    return source


def build_model(recipe: Recipe, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The recipe's classifier, initialised from the recipe's seed, with the BatchNorm branches that its method uses."""
    entry = METHODS[recipe.method]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return models.build(
            recipe.model.name,
            num_classes=num_classes,
            width=recipe.model.width,
            in_channels=image_shape[0],
            branches=tuple(dict.fromkeys(entry.layout)),
        )


def build_method(recipe: Recipe, train: ImageSource, device: torch.device) -> Method:
    """The recipe's method, its generator (where it has one) initialised from the recipe's seed and on `device`."""
    task = Task(
        num_classes=train.num_classes,
        image_shape=train.image_shape,
        epsilon=recipe.epsilon,
        mean_amplitude=lambda: mean_amplitude(train),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        method = METHODS[recipe.method].create(recipe.settings, task)
    if method.second_player is not None:
        method.second_player.to(device)
    return method


def build_step(recipe: Recipe, model: nn.Module, method: Method, processes: Processes = ONE_PROCESS) -> TrainingStep:
    """The training step of `recipe` on the model's device; `executor` says how it is called."""
    device = next(model.parameters()).device
    if recipe.engine.synchronise_batchnorm and processes.world_size > 1:
        synchronise_batchnorm(model)
        if method.second_player is not None:
            synchronise_batchnorm(method.second_player)
    branching = recipe.engine.branching
    if branching == "auto":
        branching = "grouped" if device.type == "cuda" else "folded"
    return TrainingStep(
        model,
        method,
        optimizer=recipe.optimizer,
        second_optimizer=recipe.generator_optimizer,
        precision=recipe.precision.on(device),
        update=getattr(recipe.settings, "generator_update", "joint"),
        branching=branching,
        compiled=execution(recipe, device, processes) != "eager",
        processes=processes,
        seed=recipe.seed,
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
