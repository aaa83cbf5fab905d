"""Classifiers by name, with branched BatchNorm; ``forward(images)`` is branch base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torchvision
from torch import nn

from dat.models.reference_checkpoint import load_reference_state_dict
from dat.models.resnet import ResNet
from dat.models.wide_resnet import WideResNet
from dat_engine.errors import UserError, unknown_name
from dat_engine.model.branches import convert_batchnorm

__all__ = ["build", "check_name", "load_reference_state_dict", "names"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Architecture:
    create: Callable[[int, int, int], nn.Module]  # num_classes, width, in_channels
    width: int


_ARCHITECTURES = {
    "resnet18": _Architecture(
        create=lambda classes, width, channels: ResNet(
            (2, 2, 2, 2), num_classes=classes, width=width, in_channels=channels
        ),
        width=64,
    ),
    "resnet8": _Architecture(
        create=lambda classes, width, channels: ResNet(
            (1, 1, 1), num_classes=classes, width=width, in_channels=channels
        ),
        width=16,
    ),
    "resnet50": _Architecture(
        create=lambda classes, width, channels: _torchvision_resnet50(classes, width, channels),
        width=64,
    ),
    "wrn34-10": _Architecture(
        create=lambda classes, width, channels: WideResNet(34, num_classes=classes, width=width, in_channels=channels),
        width=160,
    ),
    "wrn28-10": _Architecture(
        create=lambda classes, width, channels: WideResNet(28, num_classes=classes, width=width, in_channels=channels),
        width=160,
    ),
}


def _torchvision_resnet50(num_classes: int, width: int, channels: int) -> nn.Module:
    """torchvision's ResNet-50 (7x7 stem, pooling: for images of 224 pixels), its bottlenecks `width / 64` times as wide."""
    if channels != 3:
        raise UserError(f"resnet50 takes images of 3 channels; got {channels}")
    return torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [3, 4, 6, 3], num_classes=num_classes, width_per_group=width
    )


def names() -> tuple[str, ...]:
    """The architectures that `build` knows."""
    return tuple(_ARCHITECTURES)


def check_name(name: str) -> None:
    """Raises UserError, with the nearest known name, where `build` knows no such architecture."""
    if name not in _ARCHITECTURES:
        raise unknown_name("model", name, _ARCHITECTURES)


def build(
    name: str,
    *,
    num_classes: int,
    width: int | None = None,
    in_channels: int = 3,
    branches: Sequence[str] = ("base", "mix"),
) -> nn.Module:
    """A freshly initialised branched classifier; takes images in [0, 1], returns logits, by default those of branch base.

    Convolutions are Kaiming-normal by fan-out, BatchNorm starts at 1 and 0, linear layers keep torch's default.

    Args:
        name: one of `names()`.
        num_classes: size of the logits, at least 2.
        width: channels of the first stage (64 for resnet18, 160 for the "-10" wide networks when not given).
        in_channels: channels of the images.
        branches: BatchNorm branches, default first.

    Raises:
        ValueError: unknown name, or a number out of range.
    """
    check_name(name)
    if num_classes < 2:
        raise UserError(f"a classifier needs at least 2 classes; got num_classes={num_classes}")
    if width is not None and width < 1:
        raise UserError(f"model width must be at least 1 channel; got {width}")
    architecture = _ARCHITECTURES[name]
    model = architecture.create(num_classes, width or architecture.width, in_channels)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return convert_batchnorm(model, branches)
