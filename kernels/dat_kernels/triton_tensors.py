"""Which tensors the Triton kernels take."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32)


def why_not(dtypes: Sequence[torch.dtype], *tensors: Tensor) -> str | None:
    """None where a Triton kernel can read and write these tensors, otherwise the reason."""
    for tensor in tensors:
        if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            return f"it runs on CUDA and was given a tensor on {tensor.device}"
        if tensor.is_cuda and torch.version.hip is not None:
            return "its kernels are written for NVIDIA's GPUs and this is AMD's ROCm"
        if tensor.dtype not in dtypes:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            return f"it takes {names} and was given {tensor.dtype}"
    return None
