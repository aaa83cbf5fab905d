"""Which backend a kernel's gate looks at, and how its memory is poisoned."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from bench.gpu_acceptance.records import GateError, require
from bench.gpu_acceptance.setting import Setting
from dat_kernels import backends


def backend_of(operation: str, setting: Setting) -> str:
    """ "triton"; in a rehearsal by Triton's interpreter, or the reference where there is no Triton."""
    written = importlib.util.find_spec(f"dat_kernels.{operation}.triton_backend") is not None
    if setting.rehearsal and not (written and "triton" in backends.available_backends()):
        return "reference"
    if written:
        return "triton"
    raise GateError(f"{operation} has no Triton backend: a GPU would be served by the slow reference")


def module_of(operation: str) -> ModuleType | None:
    """The operation's Triton backend, None where there is none."""
    found = importlib.util.find_spec(f"dat_kernels.{operation}.triton_backend")
    return None if found is None else importlib.import_module(f"dat_kernels.{operation}.triton_backend")


def require_triton_by_default(operation: str, *tensors: Tensor) -> None:
    """That a GPU is served by Triton where no backend is named: else the times would be another backend's."""
    chosen = backends.choose(operation, None, *tensors).__name__
    if tensors[0].device.type == "cuda":
        require(chosen.endswith(".triton_backend"), f"backend=None is served by {chosen}")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN until something is written: a pixel that is left out cannot pass as zero."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        require(torch.empty(1).isnan().all(), "torch does not fill new memory: torch.utils.deterministic has it off")
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit, NaN where the other has NaN; strides do not count."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    left, right = one.contiguous(), other.contiguous()
    if one.dtype.is_floating_point:
        if not torch.equal(left.isnan(), right.isnan()):
            return False
        keep = ~left.isnan()
        left, right = left[keep], right[keep]
    return torch.equal(left.view(integers), right.view(integers))
