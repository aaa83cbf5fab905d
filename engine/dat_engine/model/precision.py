"""One policy for number formats: what the convolutions compute in, and what stays float32.

Losses, softmax, BatchNorm statistics, master weights and the image itself are float32 under every policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dat_engine.errors import UserError

if TYPE_CHECKING:
    import torch

# torch is imported where it is used: recipes hold a Precision and are listed without it
_AUTO = "auto"
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """Compute dtype and memory format of forward and backward passes."""

    name: str = "fp32"
    """fp32, bf16, fp16 (with a dynamic loss scale), fp64 (for checks), or auto: bf16 where the device multiplies it in
    hardware, else fp32."""
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.name != _AUTO and self.name not in _DTYPES:
            raise UserError(f"precision must be one of {', '.join((_AUTO, *_DTYPES))}; got {self.name}")

    def on(self, device: torch.device) -> Precision:
        """The policy with ``auto`` decided for `device`."""
        if self.name != _AUTO:
            return self
        return replace(self, name="bf16" if _multiplies_bf16(device) else "fp32")

    @property
    def dtype(self) -> torch.dtype:
        """Of a decided policy."""
        import torch

        dtype: torch.dtype = getattr(torch, _DTYPES[self.name])
        return dtype

    @property
    def memory_format(self) -> torch.memory_format:
        import torch

        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def scales_loss(self) -> bool:
        return self.name == "fp16"

    @property
    def is_half(self) -> bool:
        """Whether forward and backward passes compute in a narrower dtype than the weights have."""
        return self.name in ("bf16", "fp16")

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Context of the train-mode forward."""
        if not self.is_half:
            return nullcontext()
        import torch

        return torch.autocast(device.type, dtype=self.dtype)


def _multiplies_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    features: Mapping[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # newer than the oldest torch that is supported
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
