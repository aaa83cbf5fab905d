"""Which other image of the batch lends an image its amplitude, where no generator makes one."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_others(size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """For every one of `size` images the index of another one, int64 [size]: a random cycle through all of them.

    Each other image is equally likely, none lends its own, and each lends to one. Nothing waits for the device.
    """
    order = torch.rand(size, generator=generator, device=device).argsort(stable=True)
    return order.roll(1)[order.argsort(stable=True)]
