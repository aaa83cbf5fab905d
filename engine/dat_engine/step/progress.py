"""How far training has come, where a captured step can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingProgress:
    """Two float32 scalars on the device; the trainer writes them before every step, methods only read them.

    A schedule made of them (a ramp of epsilon, a loss weight from an epoch on) is followed by a step that was compiled or
    captured once: no value of theirs is known to the host.
    """

    epoch: Tensor
    """Epochs done, fractional."""
    fraction: Tensor
    """Share of the whole training that is done, in [0, 1]."""

    @classmethod
    def at_start(cls, device: torch.device) -> Self:
        return cls(epoch=torch.zeros((), device=device), fraction=torch.zeros((), device=device))

    def set(self, *, epoch: float, fraction: float) -> None:
        """Write in place, without waiting for the device."""
        self.epoch.fill_(epoch)
        self.fraction.fill_(fraction)
