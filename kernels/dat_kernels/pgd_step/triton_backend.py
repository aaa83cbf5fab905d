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
    step_size, epsilon = _contiguous(step_size), _contiguous(epsilon)
    per_sample = _elements_per_sample(images, step_size, epsilon)
    options = {"STEP_SIZE": _kind(step_size), "EPSILON": _kind(epsilon), **_options()}
    with torch.cuda.device_of(images):
        if _are_dense(tensors, by_sample=per_sample is not None):
            grid = _grid(count) if per_sample is None else (len(images) * triton.cdiv(per_sample, BLOCK),)
            triton_kernel.step_dense[grid](*tensors, step_size, epsilon, count, per_sample, **options)
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
    scale, epsilon = _contiguous(scale), _contiguous(epsilon)
    per_sample = _elements_per_sample(images, scale, epsilon)
    options = {
        "GAUSSIAN": noise == "gaussian",
        "SCALE": _kind(scale),
        "EPSILON": _kind(epsilon),
        "SEED_ON_DEVICE": isinstance(seed, Tensor),
        "OFFSET_ON_DEVICE": isinstance(offset, Tensor),
        **_options(),
    }
    with torch.cuda.device_of(images):
        if images.is_contiguous() and out.is_contiguous() and not _is_wide(per_sample or 0):
            triton_kernel.start_dense[_grid(count)](
                images, out, scale, epsilon, seed, offset, count, per_sample, **options
            )
        else:
            triton_kernel.start_strided[_grid(count)](
                images, out, scale, epsilon, seed, offset, count, *images.shape[1:], *images.stride(), *out.stride(),
                WIDE=_is_wide(count), **options,
            )  # fmt: skip


def _contiguous(value: float | Tensor | None) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value


def _kind(value: float | Tensor | None) -> int:
    if not isinstance(value, Tensor):
        kind = triton_kernel.NUMBER
    else:  # a batch of one needs no search for its samples
        kind = triton_kernel.ON_DEVICE if value.numel() == 1 else triton_kernel.PER_SAMPLE
    return int(kind.value)


def _elements_per_sample(images: Tensor, *values: float | Tensor | None) -> int | None:
    """None where none of the values differs from sample to sample: the kernels need not know then."""
    if any(_kind(value) == triton_kernel.PER_SAMPLE.value for value in values):
        return images.numel() // len(images)
    return None


def _options() -> dict[str, Any]:
    # no fused multiply-adds: the start's product and sum are rounded one by one, as in eager PyTorch
    return {"BLOCK": BLOCK, "num_warps": NUM_WARPS, "enable_fp_fusion": False}


def _grid(count: int) -> tuple[int]:
    return (triton.cdiv(count, BLOCK),)


def _is_wide(count: int) -> bool:
    return count > 2**31 - BLOCK


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if tensor is None else tensor.stride()


def _are_dense(tensors: tuple[Tensor | None, ...], *, by_sample: bool) -> bool:
    """Whether all tensors fill their memory without gaps and in the same order of dimensions.

    Args:
        by_sample: whether a batch of more than one must also be outermost.
    """
    orders = {_memory_order(tensor) for tensor in tensors if tensor is not None}
    order = orders.pop()
    return not orders and order is not None and not (by_sample and order[0] != 0)


def _memory_order(tensor: Tensor) -> tuple[int, ...] | None:
    """The dimensions longer than 1, outermost first, or None where they leave gaps or overlap."""
    dimensions = sorted((d for d in range(tensor.dim()) if tensor.shape[d] > 1), key=tensor.stride, reverse=True)
    expected = 1
    for dimension in reversed(dimensions):
        if tensor.stride(dimension) != expected:
            return None
        expected *= tensor.shape[dimension]
    return tuple(dimensions)
