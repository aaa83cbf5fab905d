"""Settings of the optimizers; imports nothing heavy, see `dat_engine.step.optimizers` for what they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dat_engine.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True, slots=True)
class SGDSettings:
    """SGD with momentum; weight decay applies to every parameter, BatchNorm's included, as in the published code."""

    kind: Literal["sgd"] = "sgd"
    """sgd or adamw; read before the other flags, it decides which there are and their defaults."""
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    implementation: Literal["torch", "apex"] = "torch"
    """torch's fused kernels, or NVIDIA apex's where that is installed (GPU and float32 weights only; never captured in a
    CUDA graph)."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient, beyond which it is scaled down; None: never."""

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
        _check_clip_norm(self.clip_norm)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWSettings:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), what transformers and ConvNeXt are trained with."""

    kind: Literal["adamw"] = "adamw"
    """sgd or adamw; read before the other flags, it decides which there are and their defaults."""
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: float = 1e-8
    weight_decay: float = 0.05
    """Decoupled: each step multiplies what decays by 1 - learning_rate * weight_decay."""
    decay: Literal["weights", "all"] = "weights"
    """What decays: the matrices and kernels of linear, convolution and attention layers, and no normalisation, bias, class
    token, position embedding or layer scale (the field's default); or every parameter."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient, beyond which it is scaled down; None: never."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate must be positive and finite; got {self.learning_rate:g}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas are two numbers in [0, 1); got {', '.join(f'{beta:g}' for beta in self.betas)}")
        if not 0 < self.eps < math.inf:
            raise UserError(f"eps must be positive and finite; got {self.eps:g}")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay must be finite and not negative; got {self.weight_decay:g}")
        if self.decay not in ("weights", "all"):
            raise UserError(f"decay must be weights or all; got {self.decay!r}")
        _check_clip_norm(self.clip_norm)


OptimizerSettings = SGDSettings | AdamWSettings

OPTIMIZERS: dict[str, type[SGDSettings] | type[AdamWSettings]] = {"sgd": SGDSettings, "adamw": AdamWSettings}
"""Settings by the name of their kind."""


def optimizer_settings(kind: str) -> type[SGDSettings] | type[AdamWSettings]:
    """The settings class of the optimizer called `kind`.

    Raises:
        UserError: there is none of that name.
    """
    if kind not in OPTIMIZERS:
        raise unknown_name("optimizer", kind, OPTIMIZERS)
    return OPTIMIZERS[kind]


def _check_clip_norm(clip_norm: float | None) -> None:
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise UserError(f"clip_norm must be positive and finite, or left out; got {clip_norm:g}")
