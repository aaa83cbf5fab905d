"""Gather, crop, flip and convert on CUDA, one launch."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from dat_kernels import triton_tensors
from dat_kernels.augment import triton_kernel

BLOCK = 1024


def serves(dataset: Tensor, *others: Tensor) -> str | None:
    return triton_tensors.why_not((torch.uint8, torch.int64, *triton_tensors.FLOATING, torch.float64), dataset, *others)


def forward(dataset: Tensor, indices: Tensor, crop_offsets: Tensor | None, flip: Tensor | None, out: Tensor) -> None:
    batch, channels, height, width = out.shape
    crop_strides = (0, 0) if crop_offsets is None else crop_offsets.stride()
    with torch.cuda.device_of(dataset):
        triton_kernel.gather_augmented[(batch * triton.cdiv(channels * height * width, BLOCK),)](
            dataset, indices, crop_offsets, flip, out,
            *dataset.stride(), indices.stride(0), *crop_strides, 0 if flip is None else flip.stride(0), *out.stride(),
            CHANNELS=channels, HEIGHT=height, WIDTH=width, CHANNELS_LAST=out.stride(1) == 1, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
