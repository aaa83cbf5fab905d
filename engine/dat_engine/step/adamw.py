"""torch's fused AdamW as an optimizer of the step: which weights decay, and a state that can be loaded in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dat_engine.step.clipping import check_clip_norm

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


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
            raise ValueError(f"learning_rate must be positive and finite; got {self.learning_rate:g}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are two numbers in [0, 1); got {', '.join(f'{beta:g}' for beta in self.betas)}")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be positive and finite; got {self.eps:g}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative; got {self.weight_decay:g}")
        if self.decay not in ("weights", "all"):
            raise ValueError(f"decay must be weights or all; got {self.decay!r}")
        check_clip_norm(self.clip_norm)


def adamw(module: nn.Module, settings: AdamWSettings, *, maximize: bool = False) -> torch.optim.Optimizer:
    """Fused AdamW over all parameters of `module`; its learning rate is a tensor on their device.

    One parameter group decays and one does not, an empty one being left out. Moments and step counters are there from the
    start, at zero, as torch makes them at the first step: so a checkpoint loads in place, and a captured graph goes on
    reading the same tensors.
    """
    parameters = list(module.parameters())
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
            if "weight" in name and parameter.ndim >= 2:
                found[parameter] = None
    return list(found)
