"""Learning-rate schedules as pure functions of the position in training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Factor on the base learning rate.

    ``step``: times `decay` at the start of each epoch in `milestones` (epochs counted from 0).
    ``cosine``: half a cosine from 1 to 0 over all epochs. ``one-cycle``: linear up over the first third, linear to 0 after.
    """

    kind: Literal["step", "cosine", "one-cycle"] = "step"
    milestones: tuple[int, ...] = (100, 110)
    decay: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise UserError(f"schedule decay must lie in (0, 1]; got {self.decay:g}")
        if any(milestone < 0 for milestone in self.milestones):
            raise UserError(f"schedule milestones are epochs, counted from 0; got {self.milestones}")

    def factor(self, progress: float, epochs: int) -> float:
        """Factor after `progress` epochs (fractional) of `epochs`."""
        if self.kind == "step":
            return self.decay ** sum(progress >= milestone for milestone in self.milestones)
        fraction = min(progress / epochs, 1.0)
        if self.kind == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * fraction))
        return min(3.0 * fraction, 1.5 * (1.0 - fraction))

    def rescaled(self, *, from_epochs: int, to_epochs: int) -> Schedule:
        """The same schedule for another length: milestones keep their share of the run."""
        milestones = tuple(round(milestone * to_epochs / from_epochs) for milestone in self.milestones)
        return Schedule(kind=self.kind, milestones=milestones, decay=self.decay)
