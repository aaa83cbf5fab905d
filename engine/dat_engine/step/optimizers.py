"""Optimizers: fused SGD, torch's or apex's; a step with a non-finite gradient changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dat_engine import private_torch
from dat_engine.step import apex_sgd


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
            raise ValueError(f"implementation must be torch or apex; got {self.implementation!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite; got {self.learning_rate:g}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1); got {self.momentum:g}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative; got {self.weight_decay:g}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum; set one above 0, or leave nesterov off")


def sgd(parameters: Iterable[nn.Parameter], settings: SGDSettings, *, maximize: bool = False) -> torch.optim.Optimizer:
    """Fused SGD; `maximize` makes it ascend, as the second player of a min-max game does.

    torch's has its learning rate in a tensor on the parameters' device, so that a captured graph follows the schedule.

    Raises:
        ValueError: apex is asked for and cannot serve.
    """
    parameters = list(parameters)
    values: dict[str, Any] = {
        "momentum": settings.momentum,
        "weight_decay": settings.weight_decay,
        "nesterov": settings.nesterov,
        "maximize": maximize,
    }
    optimizer: torch.optim.Optimizer
    if settings.implementation == "apex":
        optimizer = apex_sgd.fused_sgd(parameters, learning_rate=settings.learning_rate, **values)
    else:
        device = parameters[0].device
        # the CUDA kernel reads a float; the CPU's takes a double and so keeps float64 checks exact
        precision = torch.float32 if device.type == "cuda" else torch.float64
        rate = torch.tensor(settings.learning_rate, device=device, dtype=precision)
        optimizer = torch.optim.SGD(parameters, lr=rate, fused=True, **values)
    if settings.momentum:
        # torch leaves a first step's buffer uninitialised when that step is skipped, and apex takes the step for done;
        # from zero the first step is the same
        for parameter in optimizer.param_groups[0]["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def why_not_captured(*optimizers: torch.optim.Optimizer | None) -> str | None:
    """Why a step with these optimizers cannot be a CUDA graph, as a sentence; None where it can."""
    apex = any(optimizer is not None and apex_sgd.is_apex(optimizer) for optimizer in optimizers)
    return apex_sgd.CANNOT_BE_CAPTURED if apex else None


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Write the rate into the optimizer's tensor, in place; apex has a float in its place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a `state_dict` in place: a captured graph goes on reading the same tensors."""
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(torch.as_tensor(saved["lr"]))
        else:
            group["lr"] = float(saved["lr"])
        for index, parameter in zip(saved["params"], group["params"], strict=True):
            for name, value in state["state"].get(index, {}).items():
                optimizer.state[parameter][name].copy_(value)


def step_unless(optimizer: torch.optim.Optimizer, found_nonfinite: Tensor) -> None:
    """One optimizer step that leaves weights and momentum alone where `found_nonfinite` (float32 scalar) is 1."""
    if apex_sgd.is_apex(optimizer):
        apex_sgd.step_unless(optimizer, found_nonfinite)
        return
    private_torch.step_unless_found(optimizer, found_nonfinite)
