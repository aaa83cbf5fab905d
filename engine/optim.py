"""Optimisers. Fused where torch has the fused form; a step with a non-finite gradient changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
    """torch's fused SGD; `maximize` makes it ascend, as the second player of a min-max game does.

    Its learning rate is a tensor on the parameters' device, so that a captured graph follows the schedule.
    """
    parameters = list(parameters)
    device = parameters[0].device
    # the CUDA kernel reads a float; the CPU's takes a double and so keeps float64 checks exact
    rate = torch.tensor(
        settings.learning_rate, device=device, dtype=torch.float32 if device.type == "cuda" else torch.float64
    )
    optimizer = torch.optim.SGD(
        parameters,
        lr=rate,
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
    """Write the rate into the optimiser's tensor, in place."""
    for group in optimizer.param_groups:
        group["lr"].fill_(learning_rate)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a `state_dict` in place: a captured graph goes on reading the same tensors."""
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group["lr"].copy_(saved["lr"])
        for index, parameter in zip(saved["params"], group["params"], strict=True):
            for name, value in state["state"].get(index, {}).items():
                optimizer.state[parameter][name].copy_(value)


def give_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    """Set every ``.grad``, with the strides of its parameter.

    Fused optimisers walk weights, gradients and momentum side by side as flat memory. Where strides differ, torch's CUDA
    kernel refuses and its CPU kernel (apex's too) pairs the wrong elements without a word; autograd promises no strides.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if _same_walk(parameter, gradient) else torch.empty_like(parameter).copy_(gradient)


def _same_walk(one: Tensor, other: Tensor) -> bool:
    sizes_and_strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(left == right for size, left, right in sizes_and_strides if size != 1)


def step_unless(optimizer: torch.optim.Optimizer, found_nonfinite: Tensor) -> None:
    """One optimiser step that leaves weights and momentum alone where `found_nonfinite` (float32 scalar) is 1."""
    # the attributes through which torch's own GradScaler talks to fused optimisers: the decision stays on the device
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = found_nonfinite  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
