"""Trained classifiers back from disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dat.recipes import Recipe
from dat.recipes.reading import recipe_from_dict
from dat.training.build import build_model, choose_device
from dat.training.options import recorded_data_root
from dat_engine.data import ImageSource
from dat_engine.errors import UserError
from dat_engine.run.checkpoint import CheckpointError, load
from dat_engine.run.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A classifier in eval mode, the recipe it was trained by, its classes, and the file it came from."""

    model: nn.Module
    recipe: Recipe
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    path: Path
    data_root: Path | None = None
    """Where its data lay when it was trained; None where no config.json says."""


def checkpoint_identity(recipe: Recipe, data: ImageSource) -> dict[str, Any]:
    """What a checkpoint says of the experiment it belongs to; enough to build its classifier without the data."""
    return {
        "recipe": recipe.to_dict(),
        "class_names": list(data.class_names),
        "image_shape": list(data.image_shape),
    }


def evaluated_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Of a checkpoint the classifier's state that is evaluated, as `TrainingStep.evaluated_model` is in training."""
    weights: dict[str, Any] = state["training"]["model"]
    return weights


def load_model(path: str | Path, *, device: str = "cpu") -> nn.Module:
    """A trained classifier in eval mode: images [B, C, H, W] in [0, 1] -> logits [B, K] of the BatchNorm branch ``base``.

    Ordinary to whatever attacks or deploys a module (torchattacks, foolbox, ART, AutoAttack): it normalises nothing that its
    caller would have to know of.

    Args:
        path: a run directory, which stands for its best checkpoint, or its newest where none was selected; or a
            checkpoint file.
        device: cpu, cuda or cuda:N.

    Raises:
        UserError: nothing there, damaged, not a checkpoint of dat-engine, or a device that is not there.
    """
    return load_trained(Path(path), choose_device(device)).model


def load_trained(source: Path, device: torch.device) -> Trained:
    """From a run directory (its best checkpoint, or its newest where none was selected) or a checkpoint file.

    Raises:
        ValueError: nothing there, damaged, or not a checkpoint of dat-engine.
    """
    if not source.exists():
        raise UserError(f"{source} is neither a run directory nor a checkpoint: there is no such file")
    if source.is_dir():
        checkpoints = RunDirectory.open(source).checkpoints
        if checkpoints.best_path.exists():
            path, state = checkpoints.best_path, checkpoints.load_best(device=device)
        else:
            state, path = checkpoints.load_newest(device=device)
    else:
        path, state = source, load(source, device=device)
    if "identity" not in state or "training" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of a training run")
    identity = state["identity"]
    if "own" in identity:
        raise UserError(
            f"{path} is of a dat.Trainer, which alone knows the network; build both again, with run_dir={str(source)!r}, "
            "and call fit(resume=True), after which the network holds the chosen weights"
        )
    recipe = recipe_from_dict(identity["recipe"])
    channels, height, width = identity["image_shape"]
    class_names = tuple(identity["class_names"])
    model = build_model(recipe, len(class_names), (channels, height, width)).to(device)
    model.load_state_dict(evaluated_weights(state))
    return Trained(
        model=model.eval(),
        recipe=recipe,
        class_names=class_names,
        image_shape=(channels, height, width),
        path=path,
        data_root=_data_root(source if source.is_dir() else source.resolve().parent.parent),
    )


def _data_root(run: Path) -> Path | None:
    """What the config.json of the run at `run` names; None where a checkpoint lies outside of its run."""
    if not (run / "config.json").is_file():
        return None
    return recorded_data_root(RunDirectory.open(run).options)
