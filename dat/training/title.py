"""What a run says of itself before it begins."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dat.recipes import Recipe
from dat.training.build import execution
from dat.training.data import TrainingData
from dat_engine.distributed import Processes
from dat_engine.step.evaluated import RAW
from dat_engine.step.training_step import TrainingStep


def run_title(
    recipe: Recipe, model: nn.Module, data: TrainingData, path: Path, step: TrainingStep, processes: Processes
) -> dict[str, object]:
    """Its fields in the order in which they are shown."""
    device = step.device
    return {
        "recipe": recipe.name,
        "method": recipe.method,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **({"processes": processes.world_size} if processes.world_size > 1 else {}),
        "precision": step.precision.name,
        "execution": execution(recipe, device, processes),
        **weights_title(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "images": len(data.train),
        "run": str(path),
    }


def weights_title(recipe: Recipe) -> dict[str, object]:
    """What a run does to its weights besides stepping: awp, ema and swa, those that are on."""
    return {
        **({} if recipe.awp.gamma is None else {"awp": recipe.awp.gamma}),
        **({} if recipe.ema.decay is None else {"ema": recipe.ema.decay}),
        **({} if recipe.swa.start is None else {"swa": f"from epoch {recipe.swa.start:g}"}),
    }


def of_weights(name: str) -> str:
    """What follows a method's name in the title of an evaluation: nothing of the raw weights."""
    return "" if name == RAW else f" ({name} weights)"
