"""Batches for evaluation: every sample once, in order, un-augmented."""

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.data.arrays import ImageArrays, unit_range

__all__ = ["batches"]


def batches(arrays: ImageArrays, batch_size: int, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images float32 [B, C, H, W] in [0, 1], targets int64 [B]) on `device`; the last batch may be smaller.

    Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; use at least 1")
    return (
        (unit_range(images.to(device)), targets.to(device))
        for images, targets in zip(arrays.images.split(batch_size), arrays.targets.split(batch_size), strict=True)
    )
