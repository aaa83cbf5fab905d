"""torch's fused AdamW as an optimizer of the step: which weights decay, and a state that can be loaded in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dat_engine.step.optimizer_settings import AdamWSettings

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def adamw(module: nn.Module, settings: AdamWSettings, *, maximize: bool = False) -> torch.optim.Optimizer:
    """Fused AdamW over the parameters of `module` that want a gradient; its learning rate is a tensor on their device.

    One parameter group decays and one does not, an empty one being left out. Moments and step counters are there from the
    start, at zero, as torch makes them at the first step: so a checkpoint loads in place, and a captured graph goes on
    reading the same tensors.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decaying = parameters if settings.decay == "all" else decaying_weights(module)
    chosen = {id(parameter) for parameter in decaying}
    others = [parameter for parameter in parameters if id(parameter) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    device = parameters[0].device
    # the CUDA kernel reads a float; the CPU's takes a double and so keeps float64 checks exact
    precision = torch.float32 if device.type == "cuda" else torch.float64
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=torch.tensor(settings.learning_rate, device=device, dtype=precision),
        betas=settings.betas,
        eps=settings.eps,
        maximize=maximize,
        fused=True,
        capturable=device.type == "cuda",
    )
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    if settings.clip_norm is not None:
        optimizer.param_groups[0]["clip_norm"] = settings.clip_norm
    return optimizer


def decaying_weights(module: nn.Module) -> list[nn.Parameter]:
    """Parameters with two or more dimensions whose own name says weight, those of normalisation layers apart.

    The name leaves out what multiplies nothing: class tokens, position embeddings and tables, layer scales.
    """
    found: dict[nn.Parameter, None] = {}
    for layer in module.modules():
        if isinstance(layer, _NORMS):
            continue
        for name, parameter in layer.named_parameters(recurse=False):
            if "weight" in name and parameter.ndim >= 2 and parameter.requires_grad:
                found[parameter] = None
    return list(found)
