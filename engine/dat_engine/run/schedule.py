"""Learning-rate schedules as pure functions of the position in training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Factor on the base learning rate.

    ``step``: times `decay` at each of `milestones` (epochs counted from 0; fractions lie within an epoch).
    ``cosine``: half a cosine from 1 to 0 over the epochs after the warm-up. ``one-cycle``: linear up over the first third,
    linear to 0 after.
    """

    kind: Literal["step", "cosine", "one-cycle"] = "step"
    milestones: tuple[int | float, ...] = (100, 110)
    decay: float = 0.1
    warmup_epochs: float = 0.0
    """Epochs, whole or not, over which the rate rises linearly from 0; of step and cosine, one-cycle rises by itself."""

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise UserError(f"schedule decay must lie in (0, 1]; got {self.decay:g}")
        if not all(0 <= milestone < math.inf for milestone in self.milestones):
            raise UserError(f"schedule milestones are epochs, counted from 0; got {self.milestones}")
        if not 0 <= self.warmup_epochs < math.inf:
            raise UserError(f"schedule warmup_epochs must be finite and not negative; got {self.warmup_epochs:g}")
        if self.warmup_epochs and self.kind == "one-cycle":
            raise UserError("a one-cycle schedule warms up by itself; leave warmup_epochs at 0, or use cosine or step")

    def factor(self, progress: float, epochs: int, *, step: float = 0.0) -> float:
        """Factor after `progress` epochs (fractional) of `epochs`.

        step: share of an epoch that one training step takes. The warm-up stands at the end of the step that begins at
        `progress`, so that the first step of a run already moves the weights; 0 gives the plain ramp, 0 at the start.
        """
        warmup = min((progress + step) / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        if self.kind == "step":
            return warmup * self.decay ** sum(progress >= milestone for milestone in self.milestones)
        if self.kind == "cosine":
            after, length = max(progress - self.warmup_epochs, 0.0), epochs - self.warmup_epochs
            fraction = min(after / length, 1.0) if length > 0 else 0.0
            return warmup * 0.5 * (1.0 + math.cos(math.pi * fraction))
        fraction = min(progress / epochs, 1.0)
        return min(3.0 * fraction, 1.5 * (1.0 - fraction))

    def rescaled(self, *, from_epochs: int, to_epochs: int) -> Schedule:
        """The same schedule for another length: milestones and warm-up keep their share of the run.

        Milestones are whole epochs where these stay as many, after the start and before the end; else they are
        fractions, so that no two drops of the rate fall together and none is lost.
        """
        shares: list[int | float] = [milestone * to_epochs / from_epochs for milestone in self.milestones]
        whole: list[int | float] = [round(share) for share in shares]
        as_before = len(set(whole)) == len(set(shares)) and all(0 < milestone < to_epochs for milestone in whole)
        return replace(
            self,
            milestones=tuple(whole if as_before else shares),
            warmup_epochs=self.warmup_epochs * to_epochs / from_epochs,
        )

    def concerns(self, *, epochs: int, steps_per_epoch: int) -> list[str]:
        """What a person would not expect of these milestones in a run of that length; one sentence each."""
        if self.kind != "step":
            return []
        found = []
        step = {milestone: math.ceil(milestone * steps_per_epoch) for milestone in self.milestones}
        beyond = sorted(milestone for milestone in step if step[milestone] >= epochs * steps_per_epoch)
        if beyond:
            found.append(
                f"the learning rate never drops at epoch {_listed(beyond)}: the run ends before ({epochs} epochs of "
                f"{steps_per_epoch} steps); choose earlier --schedule.milestones, or more epochs"
            )
        if any(milestone == 0 for milestone in self.milestones):
            found.append(
                "a milestone at epoch 0 lowers the learning rate from the first step on; "
                "leave it out, or lower --optimizer.learning-rate"
            )
        within = sorted(milestone for milestone in self.milestones if milestone > 0 and milestone not in beyond)
        together = {(earlier, later) for earlier, later in itertools.pairwise(within) if step[earlier] == step[later]}
        for earlier, later in sorted(together):
            found.append(
                f"the learning rate drops twice at one step, for the milestones {_listed([earlier, later])}; "
                "choose other --schedule.milestones, or more epochs"
            )
        return found

    def drops(self) -> str:
        """The milestones in words."""
        return _listed(sorted(self.milestones))


def _listed(milestones: Sequence[float]) -> str:
    """``4 and 4.4``."""
    words = [f"{milestone:.4g}" for milestone in milestones]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
