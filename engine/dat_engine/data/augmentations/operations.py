"""Operations on pictures, another one for every image of a batch, all in a fixed number of passes over the batch.

Every operation belongs to one of three families and leaves the others' pass without effect: a lookup table of the 256
levels, a map from pixel to pixel, a blend with another picture of the same pixels. The numbers are those of
torchvision.transforms.v2.functional for uint8 images.
"""

from enum import IntEnum

import torch
from torch import Tensor
from torch.nn import functional

from dat_engine.data.augmentations.lookup_tables import autocontrast, equalize, grey_of
from dat_engine.errors import UserError

__all__ = ["Operation", "apply_operations", "check_colours"]


class Operation(IntEnum):
    """What is done, and what its magnitude means."""

    IDENTITY = 0
    BRIGHTNESS = 1  # factor
    CONTRAST = 2  # factor
    POSTERIZE = 3  # bits that are kept
    SOLARIZE = 4  # levels from this one on are inverted
    INVERT = 5
    AUTOCONTRAST = 6
    EQUALIZE = 7
    COLOR = 8  # factor
    SHARPNESS = 9  # factor
    SHEAR_X = 10  # tangent, about the centre
    SHEAR_Y = 11
    CORNER_SHEAR_X = 12  # tangent, about the upper left corner
    CORNER_SHEAR_Y = 13
    TRANSLATE_X = 14  # pixels
    TRANSLATE_Y = 15
    ROTATE = 16  # degrees, counter-clockwise


def apply_operations(levels: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Do to each image what its operation says.

    levels: float32 [B, C, H, W], whole numbers 0..255, C being 1 or 3; operation: int64 [B], values of `Operation`;
    magnitude: float64 [B]; rounded to float32 it would cost a level here and there. Maps take the nearest pixel, and 0 from
    outside of the image.
    """
    looked_up = _looked_up(levels, operation, magnitude)
    moved = functional.grid_sample(
        looked_up,
        _source_grid(operation, magnitude, levels.shape[2], levels.shape[3]),
        mode="nearest",
        padding_mode="zeros",
        align_corners=False,
    )
    _colour(moved, operation, magnitude)
    _sharpen(moved, operation, magnitude)
    return moved


def check_colours(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raise UserError for images whose number of channels colours are not defined for."""
    if image_shape[0] not in (1, 3):
        raise UserError(
            f"{name} changes colours and these images have {image_shape[0]} channels; it needs 1 (grey) or 3 (red, green, blue)"
        )


def _looked_up(levels: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    index = levels.flatten(2).to(torch.int64)
    value = torch.arange(256, device=levels.device, dtype=torch.float32)
    factor = magnitude[:, None]
    strength = factor.float()
    mean = grey_of(levels).mean(dim=(2, 3), dtype=torch.float32)
    step = torch.exp2(8 - strength)
    same_for_all_channels = {
        Operation.BRIGHTNESS: (value * strength).clamp_(0, 255).trunc_(),
        Operation.CONTRAST: torch.addcmul(value * strength, mean, (1 - factor).float()).clamp_(0, 255).trunc_(),
        Operation.POSTERIZE: (value / step).floor_().mul_(step),
        Operation.SOLARIZE: torch.where(value >= strength, 255 - value, value),
        Operation.INVERT: 255 - value,
    }
    table = value.expand(len(levels), 256)
    for kind, own in same_for_all_channels.items():
        table = torch.where((operation == kind)[:, None], own, table)
    table = table[:, None].expand(-1, levels.shape[1], -1)
    for kind, own in ((Operation.AUTOCONTRAST, autocontrast(levels)), (Operation.EQUALIZE, equalize(index))):
        table = torch.where((operation == kind)[:, None, None], own, table)
    return table.gather(2, index).view_as(levels)


def _source_grid(operation: Tensor, magnitude: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel comes from, in the coordinates of `grid_sample`: [B, H, W, 2]."""

    def of(*kinds: Operation) -> Tensor:
        chosen = torch.stack([operation == kind for kind in kinds]).any(dim=0)
        return torch.where(chosen, magnitude, 0)

    shear_x = of(Operation.SHEAR_X, Operation.CORNER_SHEAR_X)
    shear_y = of(Operation.SHEAR_Y, Operation.CORNER_SHEAR_Y)
    angle = of(Operation.ROTATE).deg2rad()
    cosine, sine = angle.cos(), angle.sin()
    # rows of the inverse map in pixels from the image's centre; at most one of the parts is at work
    from_x = (cosine, shear_x - sine, of(Operation.CORNER_SHEAR_X) * height / 2 - of(Operation.TRANSLATE_X))
    from_y = (shear_y + sine, cosine, of(Operation.CORNER_SHEAR_Y) * width / 2 - of(Operation.TRANSLATE_Y))
    x = torch.arange(width, device=operation.device) - (width - 1) / 2
    y = torch.arange(height, device=operation.device)[:, None] - (height - 1) / 2

    def mapped(row: tuple[Tensor, Tensor, Tensor], edge: int) -> Tensor:
        along_x, along_y, offset = ((part / (edge / 2)).float()[:, None, None] for part in row)
        return x * along_x + y * along_y + offset

    return torch.stack([mapped(from_x, width), mapped(from_y, height)], dim=3)


def _blend_factors(operation: Tensor, kind: Operation, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the image and of the other one, float32 [B, 1, 1, 1]; 1 and 0 where something else is done."""
    factor = torch.where(operation == kind, magnitude, 1)[:, None, None, None]
    return factor.float(), (1 - factor).float()


def _colour(levels: Tensor, operation: Tensor, magnitude: Tensor) -> None:
    """In place: a batch is large, and memory that was never used costs more than the arithmetic."""
    if levels.shape[1] == 1:
        return
    factor, rest = _blend_factors(operation, Operation.COLOR, magnitude)
    grey = grey_of(levels)
    levels.mul_(factor).addcmul_(grey, rest).clamp_(0, 255).trunc_()


def _sharpen(levels: Tensor, operation: Tensor, magnitude: Tensor) -> None:
    height, width = levels.shape[2:]
    if height < 3 or width < 3:
        return
    _, rest = _blend_factors(operation, Operation.SHARPNESS, magnitude)
    # Planes as one row of pixels, whose neighbours lie at fixed distances: wrong in the border, which stays as it is.
    pixels = levels.view(*levels.shape[:2], -1)
    inner = pixels[..., width + 1 : -(width + 1)]
    near = (pixels[..., :-2] + pixels[..., 1:-1]).add_(pixels[..., 2:])
    around = (near[..., : -2 * width] + near[..., width:-width]).add_(near[..., 2 * width :])
    change = around.add_(inner, alpha=4).div_(13).round_().sub_(inner)
    column = torch.arange(width + 1, height * width - width - 1, device=levels.device) % width
    weight = torch.where((column > 0) & (column < width - 1), rest[..., 0], 0)
    inner.addcmul_(change, weight).clamp_(0, 255).trunc_()
