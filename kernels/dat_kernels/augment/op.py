"""`augment`: argument checks, dispatch to a backend, registration with torch.library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dat_kernels import arguments, backends

OPERATION = "augment"
MEMORY_FORMATS = (torch.contiguous_format, torch.channels_last)


def augment(
    dataset: Tensor,
    indices: Tensor,
    *,
    crop_offsets: Tensor | None = None,
    flip: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    backend: str | None = None,
) -> Tensor:
    """Images of a resident 8-bit data set, gathered, cropped, flipped and converted in one pass.

    out[b, c, y, x] = dataset[indices[b], c, y + dy, x_ + dx] / 255 (0 outside the image), (dy, dx) = crop_offsets[b],
    x_ = W - 1 - x where flip[b], x elsewhere. The division is exact (correctly rounded float32, then `dtype`).

    Args:
        dataset: [N, C, H, W] uint8.
        indices: [B] int64, in [0, N). Checked on the CPU only: on a GPU reading them would wait for the device.
        crop_offsets: [B, 2] int32 or int64; padding p and crop is an offset drawn from [-p, p].
        flip: [B] bool.
        dtype: floating dtype of the result.
        memory_format: torch.contiguous_format or torch.channels_last.
        backend: see `dat_kernels.backends`.

    Returns:
        [B, C, H, W] in [0, 1].

    Raises:
        TypeError: something is not a tensor, or has the wrong dtype.
        ValueError: shapes or devices disagree, an index out of range, a backend that is unknown or cannot serve.
    """
    arguments.check_tensor("dataset", dataset)
    if dataset.dtype != torch.uint8:
        raise TypeError(f"dataset has dtype {dataset.dtype}; it must be torch.uint8")
    if dataset.dim() != 4 or 0 in dataset.shape[1:]:
        raise ValueError(
            f"dataset has shape {tuple(dataset.shape)}; it must be [N, C, H, W] with C, H and W at least 1"
        )
    arguments.check_tensor("indices", indices)
    if indices.dtype != torch.int64:
        raise TypeError(f"indices has dtype {indices.dtype}; it must be torch.int64")
    if indices.dim() != 1:
        raise ValueError(f"indices has shape {tuple(indices.shape)}; it must be [B]")
    arguments.check_device("indices", indices, "dataset", dataset)
    arguments.check_crop_and_flip(crop_offsets, flip, indices.shape[0], "dataset", dataset)
    if dtype not in arguments.FLOATING:
        raise TypeError(f"dtype is {dtype}; it must be one of {arguments.FLOATING}")
    if memory_format not in MEMORY_FORMATS:
        raise ValueError(f"memory_format is {memory_format}; it must be one of {MEMORY_FORMATS}")
    backends.check_name(backend)
    return _augment(dataset, indices, crop_offsets, flip, dtype, memory_format == torch.channels_last, backend)


@torch.library.custom_op("dat_kernels::augment", mutates_args=())
def _augment(
    dataset: Tensor,
    indices: Tensor,
    crop_offsets: Tensor | None,
    flip: Tensor | None,
    dtype: torch.dtype,
    channels_last: bool,
    backend: str | None,
) -> Tensor:
    out = _allocate(dataset, indices, dtype, channels_last)
    if out.numel() == 0:
        return out
    if indices.device.type == "cpu":
        low, high = (int(value) for value in indices.aminmax())
        if low < 0 or high >= dataset.shape[0]:
            raise ValueError(f"indices range from {low} to {high}; they must lie in [0, {dataset.shape[0]})")
    backends.choose(OPERATION, backend, dataset, indices, out).forward(dataset, indices, crop_offsets, flip, out)
    return out


@_augment.register_fake
def _(
    dataset: Tensor,
    indices: Tensor,
    crop_offsets: Any,
    flip: Any,
    dtype: torch.dtype,
    channels_last: bool,
    backend: Any,
) -> Tensor:
    return _allocate(dataset, indices, dtype, channels_last)


def _allocate(dataset: Tensor, indices: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    shape = (indices.shape[0], *dataset.shape[1:])
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=dataset.device, memory_format=memory_format)
