"""Floating-point operations: how many a function asks for, and how many a device does in its best case."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from dat_engine.private_torch import DispatchMode
from dat_engine.profile.timing import now

CPU_SIZE, GPU_SIZE = 1024, 8192
"""Rows of the square matrices that are multiplied: large enough for the full rate, small enough for a moment."""
_REPEATS = 7


class _Counter(DispatchMode):
    """Torch's own FlopCounterMode cannot be used: its module hooks refuse torch.autograd.grad."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count_flops(function: Callable[[], object]) -> int:
    """Operations of the convolutions and matrix products in one call; a multiply-add is two.

    Compiled functions inside run uncompiled for the call: fused code does not pass through the dispatcher.
    """
    with torch.compiler.set_stance("force_eager"), _Counter() as counter:
        function()
    return counter.total


def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product: what a step in `dtype` is measured against.

    float32 on a GPU is multiplied in TF32 where convolutions are allowed to, which is torch's default.
    """
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    with _convolution_precision() if device.type == "cuda" else nullcontext():
        for _ in range(_REPEATS + 1):
            started = now(device)
            left @ right
            seconds.append(now(device) - started)
    return 2 * size**3 / statistics.median(seconds[1:])


@contextmanager
def _convolution_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.backends.cudnn.allow_tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
