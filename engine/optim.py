"""Optimisers. Fused where torch has the fused form; a step with a non-finite gradient changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class SGDSettings:
    """SGD with momentum; weight decay applies to every parameter, BatchNorm's included, as in the published code."""

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate:g}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1); got {self.momentum:g}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative; got {self.weight_decay:g}")


def sgd(parameters: Iterable[nn.Parameter], settings: SGDSettings, *, maximize: bool = False) -> torch.optim.SGD:
    """torch's fused SGD; `maximize` makes it ascend, as the second player of a min-max game does."""
    optimizer = torch.optim.SGD(
        list(parameters),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        maximize=maximize,
        fused=True,
    )
    if settings.momentum:
        # torch leaves a first step's buffer uninitialised when that step is skipped; from zero the first step is the same
        for parameter in optimizer.param_groups[0]["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def step_unless(optimizer: torch.optim.Optimizer, found_nonfinite: torch.Tensor) -> None:
    """One optimiser step that leaves weights and momentum alone where `found_nonfinite` (float32 scalar) is 1."""
    # the attributes through which torch's own GradScaler talks to fused optimisers: the decision stays on the device
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = found_nonfinite  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf
