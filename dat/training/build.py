"""From a recipe to the objects that run it: classifier, method, step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from dat import models
from dat.methods import METHODS
from dat.methods.task import Task
from dat.recipes import Recipe
from dat.training.views import augmentation
from dat_engine.attack.attack_model import Branching
from dat_engine.data import Batch, ImageSource
from dat_engine.distributed import ONE_PROCESS, Processes
from dat_engine.model.branches import has_batchnorm
from dat_engine.model.synchronised import synchronise_batchnorm
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.graph import GraphedStep
from dat_engine.step.method import Method
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import AWPSettings


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
