"""ConvNeXt (Liu et al., CVPR 2022), torchvision's class with stems for images of 224 and of 32 pixels."""

from __future__ import annotations

from torch import nn

from dat_engine.errors import UserError


def convnext(
    blocks: tuple[int, int, int, int],
    *,
    patch_size: int,
    num_classes: int,
    width: int,
    in_channels: int,
    image_size: tuple[int, int],
) -> nn.Module:
    """Four stages of `width`, 2, 4 and 8 times `width` channels; torchvision's own initialisation.

    Without stochastic depth: its random numbers are no part of a step's, so that a resumed run would differ.

    Args:
        blocks: of each stage.
        patch_size: edge, in pixels, of the patches that the stem makes one position of.
        width: channels of the first stage.
        image_size: (H, W) of the images, each at least 8 patches.

    Raises:
        UserError: an image too small for four stages.
    """
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # the networks of our own do without torchvision

    smallest = 8 * patch_size
    if min(image_size) < smallest:
        raise UserError(
            f"a ConvNeXt with a stem of {patch_size} pixels needs images of at least {smallest} pixels; "
            f"got {image_size[0]}x{image_size[1]}"
        )
    channels = [width, 2 * width, 4 * width, 8 * width]
    stages = [
        CNBlockConfig(size, following, count)
        for size, following, count in zip(channels, [*channels[1:], None], blocks, strict=True)
    ]
    model = ConvNeXt(stages, num_classes=num_classes)
    if (patch_size, in_channels) != (4, 3):  # torchvision's stem; another one starts as it does
        stem = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        nn.init.trunc_normal_(stem.weight, std=0.02)
        nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
        model.features[0][0] = stem
    return model
