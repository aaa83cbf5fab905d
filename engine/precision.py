"""One policy for number formats: what the convolutions compute in, and what stays float32.

Losses, softmax, BatchNorm statistics, master weights and the image itself are float32 under every policy.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """Compute dtype and memory format of forward and backward passes.

    ``fp64`` is for checks against float64 formulas; ``fp16`` needs the dynamic loss scale of `engine.step`.
    """

    name: str = "fp32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.name not in _DTYPES:
            raise ValueError(f"precision must be one of {', '.join(_DTYPES)}; got {self.name}")

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.name]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def scales_loss(self) -> bool:
        return self.name == "fp16"

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Context of the train-mode forward."""
        if self.dtype in (torch.float32, torch.float64):
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)
