"""How a training is to go, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from dat_engine.run.interval import EPOCHS_ONLY, Interval
from dat_engine.run.schedule import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """How long, at which rate, and how often something is written."""

    epochs: int
    learning_rate: float
    schedule: Schedule
    max_steps: int | None = None
    """Stop after this many steps of the whole run, wherever in an epoch that is."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl; the only points at which the host waits for the device."""
    checkpoints: Interval = EPOCHS_ONLY
    """When checkpoints are written besides the ends of epochs."""


@dataclass(kw_only=True, slots=True)
class Position:
    """Where training stands: `step` steps done in all, `step_in_epoch` of them in the unfinished epoch `epoch`.

    seconds: wall time so far, as `dat_engine.run.trainer.Trainer.seconds`. best: the validation that selected the best
    checkpoint, in percent; None before the first.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float | None = None
