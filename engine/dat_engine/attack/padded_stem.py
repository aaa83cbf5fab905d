"""Convolutions of an attack model that see an image's three channels, given eight: the other five are zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dat_engine.attack.refreshing import Refresher

PADDED_CHANNELS = 8
"""Channels that tensor cores take at a time in half precision."""


class PaddedConvolution(nn.Module):
    """A convolution of a few input channels as one of eight, the others zero: the same numbers on other units of a GPU."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        outputs, inputs, *kernel = layer.weight.shape
        padded = layer.weight.new_zeros(outputs, PADDED_CHANNELS, *kernel)
        self.register_buffer("weight", padded.contiguous(memory_format=_memory_format_of(layer.weight)))
        self.missing = PADDED_CHANNELS - inputs

    weight: Tensor

    def refresh(self) -> None:
        self.weight[:, : self.layer.in_channels].copy_(self.layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        layer = self.layer
        images = functional.pad(images, (0, 0, 0, 0, 0, self.missing))
        return functional.conv2d(images, self.weight, layer.bias, layer.stride, layer.padding, layer.dilation)


def pad_input_channels(module: nn.Module, refresher: Refresher, padded: dict[int, nn.Module]) -> None:
    """Replace, in place, every convolution below `module` of fewer than `PADDED_CHANNELS` input channels.

    `padded` holds those that were made already, by the identity of the layer; what is missing there is added.
    """
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is not nn.Conv2d or isinstance(parent, PaddedConvolution):
                continue
            if layer.groups == 1 and layer.in_channels < PADDED_CHANNELS and layer.padding_mode == "zeros":
                if id(layer) not in padded:
                    padded[id(layer)] = replacement = PaddedConvolution(layer)
                    refresher.then(replacement.refresh)
                setattr(parent, name, padded[id(layer)])


def _memory_format_of(weight: Tensor) -> torch.memory_format:
    if weight.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format
