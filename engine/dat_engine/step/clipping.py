"""Clipping of the whole gradient by its norm, decided on the device."""

from __future__ import annotations

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


@torch.no_grad()
def clip_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Scale the gradients of all of `optimizer`'s parameters together, in place, down to the norm that it was built with.

    Does nothing for an optimizer without one; never waits for the device. A gradient that is not finite stays so.
    """
    clip_norm = optimizer.param_groups[0].get("clip_norm")
    if clip_norm is None:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    clip_grads_with_norm_(parameters, clip_norm, get_total_norm(gradients))
