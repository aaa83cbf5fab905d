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
    outputs = (out, model_input, active)
    written = [memory.writable(tensor) for tensor in outputs]
    _native.pgd_step(
        memory.describe(adversarial),
        memory.describe(gradient),
        memory.describe(images),
        *map(memory.describe, written),
        float(step_size),
        float(epsilon),
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
    written = memory.writable(out)
    _native.pgd_start(
        memory.describe(images),
        memory.describe(written),
        noise == "gaussian",
        float(scale),
        math.inf if epsilon is None else float(epsilon),
        int(seed),
        int(offset),
        tuple(images.shape),
        memory.threads_for(images.numel()),
    )
    memory.deliver(written, out)
