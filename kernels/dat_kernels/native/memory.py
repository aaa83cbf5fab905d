"""Tensors as the compiled module takes them: address, dtype code, and whether channels are interleaved.

The module takes raw memory, so whoever calls it must keep the tensors alive and must have checked them.
"""

from __future__ import annotations

import torch
from torch import Tensor

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ABSENT = (0, 0, False)
# below this many elements, waking a second thread costs more than it saves
ELEMENTS_PER_THREAD = 8192

Description = tuple[int, int, bool]


def why_not(images: Tensor, *others: Tensor) -> str | None:
    """Why the compiled module cannot take these tensors, as a clause; None where it can."""
    for tensor in (images, *others):
        if tensor.device.type != "cpu":
            return f"it runs on the CPU and a tensor is on {tensor.device}"
        if tensor.is_floating_point() and tensor.dtype not in DTYPE_CODES:
            return f"it takes float32, bfloat16 and float16 and a tensor is {tensor.dtype}"
    return None


def is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


def dense(tensor: Tensor) -> Tensor:
    """The tensor itself where it is contiguous or channels_last, a contiguous copy elsewhere."""
    return tensor if is_dense(tensor) else tensor.contiguous()


def writable(tensor: Tensor | None) -> Tensor | None:
    """The tensor itself where the module can write into it, elsewhere a new one whose content `deliver` brings home."""
    return tensor if tensor is None or is_dense(tensor) else torch.empty(tensor.shape, dtype=tensor.dtype)


def deliver(written: Tensor | None, tensor: Tensor | None) -> None:
    if tensor is not None and written is not None and written is not tensor:
        tensor.copy_(written)


def describe(tensor: Tensor | None) -> Description:
    """(address, dtype code, interleaved) of a dense [B, C, H, W] tensor."""
    if tensor is None:
        return ABSENT
    return tensor.data_ptr(), DTYPE_CODES.get(tensor.dtype, 0), not tensor.is_contiguous()


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def as_offsets(crop_offsets: Tensor | None) -> Tensor | None:
    """Contiguous int64 [B, 2], copied only where it is not that already."""
    return None if crop_offsets is None else crop_offsets.to(torch.int64).contiguous()


def threads_for(elements: int) -> int:
    """Threads worth waking for an operation on this many elements."""
    return max(1, min(torch.get_num_threads(), elements // ELEMENTS_PER_THREAD))
