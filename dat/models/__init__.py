"""Classifiers by name, with branched BatchNorm where they have any; ``forward(images)`` is branch base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from dat.models.convnext import convnext
from dat.models.reference_checkpoint import load_reference_state_dict
from dat.models.resnet import ResNet
from dat.models.vision_transformer import vision_transformer
from dat.models.wide_resnet import WideResNet
from dat_engine.errors import UserError, unknown_name
from dat_engine.model.branches import convert_batchnorm, has_batchnorm

__all__ = ["build", "check", "convert_batchnorm", "load_reference_state_dict", "names"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Size:
    """What an architecture is built for; the network's only constraints are on these."""

    num_classes: int
    width: int
    in_channels: int
    image_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Architecture:
    create: Callable[[_Size], nn.Module]
    width: int
    image_size: int = 32
    """Edge of the images that it is published for."""
    own_initialisation: bool = False
    """Whether `create` initialises convolutions too; they are Kaiming-normal by fan-out otherwise."""


def _resnet(blocks: tuple[int, ...], width: int) -> _Architecture:
    def create(size: _Size) -> nn.Module:
        return ResNet(blocks, num_classes=size.num_classes, width=size.width, in_channels=size.in_channels)

    return _Architecture(create=create, width=width)


def _wide_resnet(depth: int) -> _Architecture:
    def create(size: _Size) -> nn.Module:
        return WideResNet(depth, num_classes=size.num_classes, width=size.width, in_channels=size.in_channels)

    return _Architecture(create=create, width=160)


def _vision_transformer(
    *, patch_size: int, layers: int, width: int, mlp_ratio: int = 4, image_size: int = 32
) -> _Architecture:
    def create(size: _Size) -> nn.Module:
        return vision_transformer(patch_size=patch_size, layers=layers, mlp_ratio=mlp_ratio, **asdict(size))

    return _Architecture(create=create, width=width, image_size=image_size, own_initialisation=True)


def _convnext(blocks: tuple[int, int, int, int], *, patch_size: int, width: int, image_size: int = 32) -> _Architecture:
    def create(size: _Size) -> nn.Module:
        return convnext(blocks, patch_size=patch_size, **asdict(size))

    return _Architecture(create=create, width=width, image_size=image_size, own_initialisation=True)


def _torchvision_resnet50(size: _Size) -> nn.Module:
    """torchvision's ResNet-50 (7x7 stem, pooling: for images of 224 pixels), its bottlenecks `width / 64` times as wide."""
    if size.in_channels != 3:
        raise UserError(f"resnet50 takes images of 3 channels; got {size.in_channels}")
    from torchvision.models import resnet  # only what is torchvision's needs it

    return resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3], num_classes=size.num_classes, width_per_group=size.width)


_ARCHITECTURES = {
    "resnet18": _resnet((2, 2, 2, 2), 64),
    "resnet8": _resnet((1, 1, 1), 16),
    "resnet50": _Architecture(create=_torchvision_resnet50, width=64, image_size=224),
    "wrn34-10": _wide_resnet(34),
    "wrn28-10": _wide_resnet(28),
    # without BatchNorm; the first two are torchvision's networks of these names
    "convnext_tiny": _convnext((3, 3, 9, 3), patch_size=4, width=96, image_size=224),
    "vit_b_16": _vision_transformer(patch_size=16, layers=12, width=768, image_size=224),
    # timm's atto size with a stem for small images
    "convnext_atto_patch2": _convnext((2, 2, 6, 2), patch_size=2, width=40),
    # DeiT-Ti's size (Touvron et al., ICML 2021) and ViT-Lite-7/4 (Hassani et al. 2021)
    "vit_tiny_patch4": _vision_transformer(patch_size=4, layers=12, width=192),
    "vit_lite_patch4": _vision_transformer(patch_size=4, layers=7, width=256, mlp_ratio=2),
}


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
    image_size: tuple[int, int] | None = None,
    branches: Sequence[str] = ("base", "mix"),
) -> nn.Module:
    """A freshly initialised branched classifier; takes images in [0, 1], returns logits, by default those of branch base.

    Convolutions are Kaiming-normal by fan-out, BatchNorm starts at 1 and 0, linear layers keep torch's default. Vision
    transformers and ConvNeXt keep torchvision's own initialisation; they have no BatchNorm, and so one set of weights for
    all branches.

    Args:
        name: one of `names()`.
        num_classes: size of the logits, at least 2.
        width: channels of the first stage (64 for resnet18, 160 for the "-10" wide networks when not given), or of a
            transformer's tokens.
        in_channels: channels of the images.
        image_size: (H, W) of the images, which a transformer's positions depend on; None: what the network is published
            for.
        branches: BatchNorm branches, default first.

    Raises:
        UserError: unknown name, a number out of range, an image size or a width that the architecture cannot have.
    """
    architecture, size = _checked(name, num_classes, width, in_channels, image_size)
    model = architecture.create(size)
    if not architecture.own_initialisation:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return convert_batchnorm(model, branches) if has_batchnorm(model) else model


def check(name: str, *, width: int | None, in_channels: int, image_size: tuple[int, int]) -> None:
    """Raise what `build` would raise for these, without building anything or drawing a random number."""
    architecture, size = _checked(name, 2, width, in_channels, image_size)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        architecture.create(size)


def _checked(
    name: str, num_classes: int, width: int | None, in_channels: int, image_size: tuple[int, int] | None
) -> tuple[_Architecture, _Size]:
    check_name(name)
    if num_classes < 2:
        raise UserError(f"a classifier needs at least 2 classes; got num_classes={num_classes}")
    if width is not None and width < 1:
        raise UserError(f"model width must be at least 1 channel; got {width}")
    architecture = _ARCHITECTURES[name]
    size = _Size(
        num_classes=num_classes,
        width=width or architecture.width,
        in_channels=in_channels,
        image_size=image_size or (architecture.image_size, architecture.image_size),
    )
    return architecture, size
