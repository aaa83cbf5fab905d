"""A network run in bfloat16 beside a classifier in whatever precision: float32 weights, float32 results."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dat_engine.errors import UserError


class BF16Forward(nn.Module):
    """``network(*inputs)`` with matrix products and convolutions in bfloat16 (autocast); the result leaves in float32.

    Weights, their gradients and BatchNorm's statistics stay float32; a float64 network stays float64.

    Raises:
        UserError: on a call, where the network gives anything but one tensor.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
            result = self.network(*inputs)
        if not isinstance(result, Tensor):
            raise UserError(
                f"{type(self.network).__name__} gives a {type(result).__name__}, and a network in bf16 (engine.bf16_players) "
                "must give one tensor; leave the switch off"
            )
        return result.to(torch.promote_types(result.dtype, torch.float32))
