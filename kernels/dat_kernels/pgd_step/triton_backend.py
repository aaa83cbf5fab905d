"""The PGD step and the random start on CUDA, each one launch."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from dat_kernels import triton_tensors
from dat_kernels.pgd_step import triton_kernel

# 8 elements per thread: two 16-byte accesses in float32, one in the narrower dtypes
BLOCK = 1024
NUM_WARPS = 4


def serves(images: Tensor, *others: Tensor) -> str | None:
    return triton_tensors.why_not((*triton_tensors.FLOATING, torch.bool), images, *others)


def forward(
    adversarial: Tensor,
    gradient: Tensor,
    images: Tensor,
    step_size: float | Tensor,
    epsilon: float | Tensor,
    out: Tensor,
    model_input: Tensor | None,
    active: Tensor | None,
) -> None:
    """See `op.pgd_step`; a tensor that is written must not overlap one that is read, unless out is adversarial."""
    tensors = (adversarial, gradient, images, out, model_input, active)
    count = images.numel()
    options = {
        "STEP_SIZE_ON_DEVICE": isinstance(step_size, Tensor),
        "EPSILON_ON_DEVICE": isinstance(epsilon, Tensor),
        **_options(),
    }
    with torch.cuda.device_of(images):
        if _share_memory_order(tensors):
            triton_kernel.step_dense[_grid(count)](*tensors, step_size, epsilon, count, **options)
        else:
            strides = [stride for tensor in tensors for stride in _strides(tensor)]
            triton_kernel.step_strided[_grid(count)](
                *tensors, step_size, epsilon, count, *images.shape[1:], *strides, WIDE=_is_wide(count), **options
            )


def start(
    images: Tensor,
    noise: str,
    scale: float | Tensor,
    epsilon: float | Tensor | None,
    seed: int | Tensor,
    offset: int | Tensor,
    out: Tensor,
) -> None:
    count = images.numel()
    options = {
        "GAUSSIAN": noise == "gaussian",
        "SCALE_ON_DEVICE": isinstance(scale, Tensor),
        "EPSILON_ON_DEVICE": isinstance(epsilon, Tensor),
        "SEED_ON_DEVICE": isinstance(seed, Tensor),
        "OFFSET_ON_DEVICE": isinstance(offset, Tensor),
        **_options(),
    }
    with torch.cuda.device_of(images):
        if images.is_contiguous() and out.is_contiguous():
            triton_kernel.start_dense[_grid(count)](images, out, scale, epsilon, seed, offset, count, **options)
        else:
            triton_kernel.start_strided[_grid(count)](
                images, out, scale, epsilon, seed, offset, count, *images.shape[1:], *images.stride(), *out.stride(),
                WIDE=_is_wide(count), **options,
            )  # fmt: skip


def _options() -> dict[str, Any]:
    # no fused multiply-adds: the start's product and sum are rounded one by one, as in eager PyTorch
    return {"BLOCK": BLOCK, "num_warps": NUM_WARPS, "enable_fp_fusion": False}


def _grid(count: int) -> tuple[int]:
    return (triton.cdiv(count, BLOCK),)


def _is_wide(count: int) -> bool:
    return count > 2**31 - BLOCK


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if tensor is None else tensor.stride()


def _share_memory_order(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether all tensors fill their memory without gaps and in the same order of dimensions."""
    orders = {_memory_order(tensor) for tensor in tensors if tensor is not None}
    return len(orders) == 1 and None not in orders


def _memory_order(tensor: Tensor) -> tuple[int, ...] | None:
    """The dimensions longer than 1, outermost first, or None where they leave gaps or overlap."""
    dimensions = sorted((d for d in range(tensor.dim()) if tensor.shape[d] > 1), key=tensor.stride, reverse=True)
    expected = 1
    for dimension in reversed(dimensions):
        if tensor.stride(dimension) != expected:
            return None
        expected *= tensor.shape[dimension]
    return tuple(dimensions)
