"""Gather, crop, flip and conversion on the CPU, through the compiled module."""

from __future__ import annotations

from torch import Tensor

import dat_kernels._native as _native
from dat_kernels.native import memory


def serves(dataset: Tensor, *others: Tensor) -> str | None:
    if not memory.is_dense(dataset):
        return f"dataset has strides {dataset.stride()}, neither contiguous nor channels_last"
    return memory.why_not(dataset, *others)


def forward(dataset: Tensor, indices: Tensor, crop_offsets: Tensor | None, flip: Tensor | None, out: Tensor) -> None:
    offsets = memory.as_offsets(crop_offsets)
    indices = indices.contiguous()
    flip = None if flip is None else flip.contiguous()
    _native.augment(
        dataset.data_ptr(),
        not dataset.is_contiguous(),
        indices.data_ptr(),
        memory.describe(out),
        memory.address(offsets),
        memory.address(flip),
        tuple(out.shape),
        memory.threads_for(out.numel()),
    )
