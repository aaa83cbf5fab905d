"""Convolutions whose weight gradient corrupts the heap on a CPU when they are computed channels-last: kept contiguous."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dat_engine.model.precision import Precision

_BLOCK = 16
"""Channels that oneDNN takes at a time; it goes wrong where the last block of input channels is not full."""


def keep_out_of_channels_last(model: nn.Module, precision: Precision) -> None:
    """Keep such layers of `model` contiguous, in place; nothing changes on another device or in another format.

    oneDNN (3.13.3, of torch 2.15) writes beyond its memory in the weight gradient of a 1x1 convolution with a stride in
    channels-last float32: sooner or later "corrupted size vs. prev_size" or a segmentation fault, without this project as
    well. The essence, which dies within 20 rounds:

        convolution = nn.Conv2d(8, 16, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
        images = torch.randn(8, 8, 64, 64).contiguous(memory_format=torch.channels_last)
        convolution(images).sum().backward()

    Seen with 2 to 12 input channels and edges of 48 pixels and more; not with 16, 24, 32 or 64 input channels, 3x3
    kernels, stride 1, stride 3, the gradient of the images, or contiguous tensors. Multiples of 16 channels, all that
    networks of published width have here, are left as they are.
    """
    device = next(model.parameters()).device
    if device.type != "cpu" or precision.memory_format != torch.channels_last or precision.dtype != torch.float32:
        return
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and _is_affected(layer):
            # the weight too: torch goes by whichever of the two is channels-last
            layer.weight.data = layer.weight.data.clone(memory_format=torch.contiguous_format)
            layer.register_forward_pre_hook(_contiguous)


def _is_affected(layer: nn.Conv2d) -> bool:
    kernel, stride = tuple(layer.kernel_size), tuple(layer.stride)
    return kernel == (1, 1) and max(stride) > 1 and layer.in_channels % _BLOCK != 0


def _contiguous(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in inputs)
