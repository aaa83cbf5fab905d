"""The PGD step and its start on the CPU, through the compiled module."""

from __future__ import annotations

import math

from torch import Tensor

import dat_kernels._native as _native
from dat_kernels.native import memory


def serves(images: Tensor, *others: Tensor) -> str | None:
    return memory.why_not(images, *others)


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
    adversarial, gradient, images = memory.dense(adversarial), memory.dense(gradient), memory.dense(images)
    step_size, epsilon = _contiguous(step_size), _contiguous(epsilon)
    outputs = (out, model_input, active)
    written = [memory.writable(tensor) for tensor in outputs]
    _native.pgd_step(
        memory.describe(adversarial),
        memory.describe(gradient),
        memory.describe(images),
        *map(memory.describe, written),
        _describe(step_size),
        _describe(epsilon),
        tuple(images.shape),
        memory.threads_for(images.numel()),
    )
    for target, tensor in zip(written, outputs, strict=True):
        memory.deliver(target, tensor)


def start(
    images: Tensor,
    noise: str,
    scale: float | Tensor,
    epsilon: float | Tensor | None,
    seed: int | Tensor,
    offset: int | Tensor,
    out: Tensor,
) -> None:
    images = memory.dense(images)
    scale, epsilon = _contiguous(scale), _contiguous(math.inf if epsilon is None else epsilon)
    written = memory.writable(out)
    _native.pgd_start(
        memory.describe(images),
        memory.describe(written),
        noise == "gaussian",
        _describe(scale),
        _describe(epsilon),
        int(seed),
        int(offset),
        tuple(images.shape),
        memory.threads_for(images.numel()),
    )
    memory.deliver(written, out)


def _contiguous(value: float | Tensor) -> float | Tensor:
    return value.contiguous() if isinstance(value, Tensor) else value


def _describe(value: float | Tensor) -> tuple[float, int]:
    """(value, 0) of one for all samples, (0, address) of a contiguous tensor with one per sample."""
    if isinstance(value, Tensor) and value.dim() == 1:
        return 0.0, value.data_ptr()
    return float(value), 0
