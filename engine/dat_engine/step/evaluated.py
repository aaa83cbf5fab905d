"""Which of a run's weights are validated, selected and evaluated: decided here and nowhere else.

The mean over epochs (``swa``) from its first epoch on, else the exponential average (``ema``), else the classifier's own
(``raw``). An average counts while its statistics are its own, which is at the ends of epochs and of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from dat_engine.step.training_step import TrainingStep

RAW = "raw"
AVERAGES = ("swa", "ema")
"""Names of averages, the one that is evaluated before the other first."""


def asked_name(step: TrainingStep) -> str:
    """The name of the weights that are evaluated once they can be: of the averages that are kept the first."""
    return next((name for name in AVERAGES if name in step.averages.by_name), RAW)


def evaluated_name(step: TrainingStep) -> str:
    """The name of the weights of a run in progress that are evaluated; waits for the device."""
    kept = step.averages.by_name
    return next((name for name in AVERAGES if name in kept and kept[name].ready), RAW)


def evaluated_model(step: TrainingStep) -> nn.Module:
    """The network of a run in progress that is validated, and by whose accuracy the best checkpoint is selected."""
    name = evaluated_name(step)
    return step.model if name == RAW else step.averages.by_name[name].network


def names_in(training: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the weights that a `TrainingStep.state_dict` can be evaluated with, the one that is evaluated first."""
    averages = training.get("averages")
    found = averages if isinstance(averages, Mapping) else {}
    return (*(name for name in AVERAGES if _is_ready(found.get(name))), RAW)


def evaluated_weights(training: Mapping[str, Any], name: str | None = None) -> Mapping[str, Any]:
    """The state of the network that is evaluated out of `TrainingStep.state_dict`, from a checkpoint, say.

    name: one of `names_in`; None: the first.
    """
    name = names_in(training)[0] if name is None else name
    weights: Mapping[str, Any] = training["model"] if name == RAW else training["averages"][name]["network"]
    return weights


def _is_ready(average: object) -> bool:
    ready = average.get("ready") if isinstance(average, Mapping) else None
    return isinstance(ready, Tensor) and ready.numel() == 1 and bool(ready)
