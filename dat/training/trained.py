"""Trained classifiers back from disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dat.recipes import Recipe
from dat.recipes.reading import recipe_from_dict
from dat.training.build import build_model
from dat.training.device import choose_device
from dat.training.options import recorded_data_root
from dat_engine.data import ImageSource
from dat_engine.errors import UserError, unknown_name
from dat_engine.run.checkpoint import CheckpointError, CheckpointFolder, load
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.training_state import first_difference
from dat_engine.step.evaluated import AVERAGES, RAW, evaluated_weights, names_in


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A classifier in eval mode, which of the run's weights it has, its recipe and classes, and the file it came from."""

    model: nn.Module
    recipe: Recipe
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    path: Path
    weights: str
    """raw, ema or swa."""
    data_root: Path | None = None
    """Where its data lay when it was trained; None where no config.json says."""


def checkpoint_identity(recipe: Recipe, data: ImageSource) -> dict[str, Any]:
    """What a checkpoint says of the experiment it belongs to; enough to build its classifier without the data."""
    return {
        "recipe": recipe.to_dict(),
        "class_names": list(data.class_names),
        "image_shape": list(data.image_shape),
    }


def load_model(path: str | Path, *, device: str = "cpu", weights: str | None = None) -> nn.Module:
    """A trained classifier in eval mode: images [B, C, H, W] in [0, 1] -> logits [B, K] of the BatchNorm branch ``base``.

    Ordinary to whatever attacks or deploys a module (torchattacks, foolbox, ART, AutoAttack): it normalises nothing that its
    caller would have to know of.

    Args:
        path: a run directory, which stands for its best checkpoint, or its newest where none was selected; or a
            checkpoint file.
        device: cpu, cuda or cuda:N.
        weights: raw (the trained ones), ema or swa (averages of them); None: those that the run evaluates, the mean over epochs
            where there is one, else the exponential average, else the trained ones.

    Raises:
        UserError: nothing there, damaged, not a checkpoint of dat-engine, no weights of that name, or a device that is not
            there.
    """
    return load_trained(Path(path), choose_device(device), weights).model


def load_trained(source: Path, device: torch.device, weights: str | None = None) -> Trained:
    """From a run directory (its best checkpoint, or its newest where none was selected) or a checkpoint file.

    Args:
        weights: as for `load_model`.

    Raises:
        UserError: nothing there, damaged, not a checkpoint of dat-engine, or no weights of that name.
    """
    if weights not in (None, *AVERAGES, RAW):
        raise unknown_name("weights", str(weights), (RAW, *AVERAGES))
    if not source.exists():
        raise UserError(f"{source} is neither a run directory nor a checkpoint: there is no such file")
    if source.is_dir():
        checkpoints = RunDirectory.open(source).checkpoints
        state, path = checkpoints.load_selected(device=device)
        if weights is not None and path == checkpoints.best_path:
            _refuse_what_newest_has(weights, state, checkpoints)
    else:
        path, state = source, load(source, device=device)
    recipe, class_names, image_shape = _identity(state, path)
    model = build_model(recipe, len(class_names), image_shape).to(device)
    name, found = classifier_state(state, model, path, weights)
    model.load_state_dict(found)
    return Trained(
        model=model.eval(),
        recipe=recipe,
        class_names=class_names,
        image_shape=image_shape,
        path=path,
        weights=name,
        data_root=_data_root(source if source.is_dir() else source.resolve().parent.parent),
    )


def _refuse_what_newest_has(weights: str, best: Mapping[str, Any], checkpoints: CheckpointFolder) -> None:
    """Raise UserError where the run's newest checkpoint has weights of that name and its best has not."""
    if weights in names_in(best.get("training", {})) or not checkpoints.step_paths():
        return
    newest, path = checkpoints.load_newest()
    if weights in names_in(newest.get("training", {})):
        raise UserError(
            f"{checkpoints.best_path} was selected before there were {weights} weights; the run's newest checkpoint has them, "
            f"give {path}"
        )


def classifier_state(
    state: Mapping[str, Any], model: nn.Module, path: Path, weights: str | None = None
) -> tuple[str, dict[str, Tensor]]:
    """The state dict of `model` in a training state read from `path`, and the name of the weights that it holds.

    Args:
        weights: as for `load_model`.

    Raises:
        CheckpointError: it is another network's, or none; names the first difference.
        UserError: there are no weights of that name in it.
    """
    training = state.get("training")
    if not isinstance(training, Mapping) or "model" not in training:
        raise CheckpointError(f"{path} is not a checkpoint of a training run: it holds no classifier")
    names = names_in(training)
    if weights is not None and weights not in names:
        raise UserError(
            f"{path} holds no weights called {weights} but {', '.join(names)}; averages are kept by --ema.decay and "
            "--swa.start, and are complete in the checkpoints of the ends of epochs"
        )
    name = weights or names[0]
    found = evaluated_weights(training, name)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} is not a checkpoint of a training run: it holds no classifier")
    difference = first_difference(found, model.state_dict())
    if difference is not None:
        raise CheckpointError(
            f"{path} does not hold the classifier that its recipe describes: {difference}; use another checkpoint of that run"
        )
    return name, dict(found)


def _identity(state: Mapping[str, Any], path: Path) -> tuple[Recipe, tuple[str, ...], tuple[int, int, int]]:
    """What `checkpoint_identity` wrote."""
    identity = state.get("identity")
    if isinstance(identity, Mapping) and "own" in identity:
        raise UserError(
            f"{path} is of a dat.Trainer, which alone knows the network; build both again, with the same run_dir, and call "
            "fit(resume=True), after which the network holds the chosen weights"
        )
    if not isinstance(identity, Mapping) or not isinstance(identity.get("recipe"), Mapping):
        raise CheckpointError(f"{path} is not a checkpoint of a training run: it names no recipe")
    names, shape = identity.get("class_names"), identity.get("image_shape")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path} is damaged: class_names is no list of names; use another checkpoint of that run")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(size) is int and size > 0 for size in shape):
        raise CheckpointError(f"{path} is damaged: image_shape is {shape!r}, not three sizes; use another of that run")
    recipe = recipe_from_dict(identity["recipe"], source=str(path))
    channels, height, width = shape
    return recipe, tuple(names), (channels, height, width)


def _data_root(run: Path) -> Path | None:
    """What the config.json of the run at `run` names; None where a checkpoint lies outside of its run."""
    if not (run / "config.json").is_file():
        return None
    return recorded_data_root(RunDirectory.open(run).options)
