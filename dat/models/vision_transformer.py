"""Vision transformers (Dosovitskiy et al., ICLR 2021), torchvision's class in sizes for images of 224 and of 32 pixels."""

from __future__ import annotations

import math

from torch import nn

from dat_engine.errors import UserError

_HEAD_CHANNELS = 64


def vision_transformer(
    *,
    patch_size: int,
    layers: int,
    mlp_ratio: int,
    num_classes: int,
    width: int,
    in_channels: int,
    image_size: tuple[int, int],
) -> nn.Module:
    """Class token, learned positions, pre-norm encoder; torchvision's own initialisation, no dropout.

    Args:
        patch_size: edge of a patch in pixels.
        layers: of the encoder.
        mlp_ratio: width of the hidden layers over `width`.
        width: channels of a token; heads have 64 channels each, a narrower network has one head.
        image_size: (H, W) of the images, equal and a multiple of `patch_size`.

    Raises:
        UserError: a width that does not divide into heads, an image that does not divide into patches.
    """
    from torchvision.models import VisionTransformer  # the networks of our own do without torchvision

    if width > _HEAD_CHANNELS and width % _HEAD_CHANNELS:
        raise UserError(
            f"a vision transformer has attention heads of {_HEAD_CHANNELS} channels, into which a width of {width} does "
            f"not divide; use a multiple of {_HEAD_CHANNELS}, or less than {_HEAD_CHANNELS} for a single head"
        )
    height, breadth = image_size
    if height != breadth or height % patch_size:
        raise UserError(
            f"a vision transformer with patches of {patch_size} pixels needs square images whose edge is a multiple of "
            f"{patch_size}; got {height}x{breadth}"
        )
    model = VisionTransformer(
        image_size=height,
        patch_size=patch_size,
        num_layers=layers,
        num_heads=max(width // _HEAD_CHANNELS, 1),
        hidden_dim=width,
        mlp_dim=width * mlp_ratio,
        num_classes=num_classes,
    )
    if in_channels != 3:  # torchvision's stem is for RGB; this one starts as it does
        stem = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        nn.init.trunc_normal_(stem.weight, std=math.sqrt(1 / (in_channels * patch_size**2)))
        nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
        model.conv_proj = stem
    return model
