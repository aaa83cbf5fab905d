"""Settings of the optimizers; imports nothing heavy, see `dat_engine.step.optimizers` for what they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class SGDSettings:
    """SGD with momentum; weight decay applies to every parameter, BatchNorm's included, as in the published code."""

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    implementation: Literal["torch", "apex"] = "torch"
    """torch's fused kernels, or NVIDIA apex's where that is installed (GPU and float32 weights only; never captured in a
    CUDA graph)."""

    def __post_init__(self) -> None:
        if self.implementation not in ("torch", "apex"):
            raise UserError(f"implementation must be torch or apex; got {self.implementation!r}")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate must be positive and finite; got {self.learning_rate:g}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must lie in [0, 1); got {self.momentum:g}")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay must be finite and not negative; got {self.weight_decay:g}")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov needs momentum; set one above 0, or leave nesterov off")
