"""Scalars that change while training, as functions of where it stands on the device.

Each takes a 0-dim tensor of `TrainingProgress`, epochs done or the share of the training that is done, and gives one of its
dtype and device. What a method makes of them (a radius that grows, a loss weight from an epoch on) is followed by a step that
was compiled or captured once; where a schedule begins or ends changes no graph.
"""

from __future__ import annotations

from torch import Tensor


def epoch_number(epoch: Tensor) -> Tensor:
    """Number of the epoch that runs, counted from 1, of the epochs done: for schedules that change between epochs only."""
    return epoch.floor() + 1.0


def switched_on(position: Tensor, *, start: float) -> Tensor:
    """0 before `start`, 1 from it on: times a weight, a term of the loss that joins in."""
    return (position >= start).to(position.dtype)


def linear_ramp(position: Tensor, *, start: float = 0.0, end: float, before: float = 0.0, after: float = 1.0) -> Tensor:
    """`before` up to `start`, from there in a line to `after` at `end`, then constant; a decay where `after` is the smaller.

    Raises:
        ValueError: an end that does not lie behind the start.
    """
    if not start < end:
        raise ValueError(f"a ramp needs an end behind its start; got {start:g} to {end:g}")
    share = ((position - start) / (end - start)).clamp(0.0, 1.0)
    return before + (after - before) * share
