"""Optimizers: fused SGD, torch's or apex's, and fused AdamW; a step with a non-finite gradient changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dat_engine import private_torch
from dat_engine.step import apex_sgd
from dat_engine.step.adamw import adamw
from dat_engine.step.clipping import clip_gradients
from dat_engine.step.optimizer_settings import AdamWSettings, OptimizerSettings, SGDSettings


def build_optimizer(module: nn.Module, settings: OptimizerSettings, *, maximize: bool = False) -> torch.optim.Optimizer:
    """The optimizer that `settings` describe, over the parameters of `module` that want a gradient; `maximize`: it ascends.

    Raises:
        UserError: apex is asked for and cannot serve.
    """
    if isinstance(settings, AdamWSettings):
        return adamw(module, settings, maximize=maximize)
    wanting = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return sgd(wanting, settings, maximize=maximize)


def sgd(parameters: Iterable[nn.Parameter], settings: SGDSettings, *, maximize: bool = False) -> torch.optim.Optimizer:
    """Fused SGD; `maximize` makes it ascend, as the second player of a min-max game does.

    torch's has its learning rate in a tensor on the parameters' device, so that a captured graph follows the schedule.

    Raises:
        UserError: apex is asked for and cannot serve.
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
    if settings.clip_norm is not None:
        optimizer.param_groups[0]["clip_norm"] = settings.clip_norm
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
    """One optimizer step that leaves weights, moments and step counters alone where `found_nonfinite` (float32 scalar) is 1.

    Gradients are unscaled already; they are clipped here where the optimizer's settings say so.
    """
    clip_gradients(optimizer)
    if apex_sgd.is_apex(optimizer):
        apex_sgd.step_unless(optimizer, found_nonfinite)
        return
    private_torch.step_unless_found(optimizer, found_nonfinite)
