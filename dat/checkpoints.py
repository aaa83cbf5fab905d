"""Trained classifiers back from disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dat.experiment import build_model
from dat.recipes import Recipe, recipe_from_dict
from engine.checkpoint import CheckpointError, load
from engine.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A classifier in eval mode, the recipe it was trained by and the file it came from."""

    model: nn.Module
    recipe: Recipe
    path: Path


def load_trained(source: Path, device: torch.device) -> Trained:
    """From a run directory (its best checkpoint, or its newest where none was selected) or a checkpoint file.

    Raises:
        ValueError: nothing there, damaged, or not a checkpoint of dat-engine.
    """
    if not source.exists():
        raise ValueError(f"{source} is neither a run directory nor a checkpoint: there is no such file")
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
    recipe = recipe_from_dict(state["identity"])
    model = build_model(recipe).to(device)
    model.load_state_dict(state["training"]["model"])
    return Trained(model=model.eval(), recipe=recipe, path=path)
