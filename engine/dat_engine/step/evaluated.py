"""Which of a run's weights are validated, selected and evaluated: decided here and nowhere else.

Today the classifier's own; an average of them would be another line in both functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from dat_engine.step.training_step import TrainingStep


def evaluated_model(step: TrainingStep) -> nn.Module:
    """The network of a run in progress that is validated, and by whose accuracy the best checkpoint is selected."""
    return step.model


def evaluated_weights(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same network's state out of `TrainingStep.state_dict`, from a checkpoint, say."""
    weights: Mapping[str, Any] = training["model"]
    return weights
