"""Random crop with zero padding, and random resized crop: their settings and their draws. Both flip."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dat_engine.data.augmentations.cutmix import CutMix
from dat_engine.data.augmentations.interface import ImageAugmentation
from dat_engine.errors import UserError

__all__ = ["NO_RESIZED_CROP_OF_ARRAYS", "Augmentation", "RandomResizedCrop", "draw_augmentation", "draw_windows"]

NO_RESIZED_CROP_OF_ARRAYS = (
    "a random resized crop is cut out of image files, and this data set is held as images of one size; "
    "use Augmentation(padding=..., flip=...)"
)
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Crop to the image's own size after padding with `padding` zeros on each side; flip half of the images if `flip`.

    then: what is done afterwards.

    Raises UserError for a negative padding.
    """

    padding: int
    flip: bool
    then: ImageAugmentation | CutMix | None = None

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise UserError(f"padding is {self.padding}; use 0 (no crop) or a positive number of pixels")


def draw_augmentation(
    augmentation: Augmentation, batch_size: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Draw (crop_offsets, flip) for `batch_size` samples on `device`, where `generator` must live too.

    crop_offsets: int32 [B, 2], (dy, dx) uniform in -padding..padding; flip: bool [B], true for half of the samples
    on average, for none where the augmentation does not flip. The meaning of both is that of `dat_kernels.augment`.
    """
    crop_offsets = torch.randint(
        -augmentation.padding,
        augmentation.padding + 1,
        (batch_size, 2),
        generator=generator,
        device=device,
        dtype=torch.int32,
    )
    if augmentation.flip:
        flip = torch.rand(batch_size, generator=generator, device=device) < 0.5
    else:
        flip = torch.zeros(batch_size, dtype=torch.bool, device=device)
    return crop_offsets, flip


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomResizedCrop:
    """Cut a random window out of the whole file, scale it to the image size, flip half of the images if `flip`.

    The window's area is a share of the file's drawn uniformly from `scale`, its width over its height is drawn from
    `ratio`, uniformly in the logarithm; see torchvision.transforms.v2.RandomResizedCrop. then: what is done afterwards.

    Raises UserError for shares outside 0 < low <= high <= 1 or ratios outside 0 < low <= high.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    then: ImageAugmentation | CutMix | None = None

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"scale is {self.scale}; give two shares of the area with 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UserError(f"ratio is {self.ratio}; give two positive aspect ratios with low <= high")


def draw_windows(augmentation: RandomResizedCrop, sizes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a window for each file: sizes int [B, 2], (height, width), on the CPU -> int32 [B, 4], (top, left, h, w).

    As torchvision does: the first of ten draws that fits into the file, placed uniformly; where none fits, the
    largest central window whose aspect ratio is allowed.
    """
    height, width = sizes.to(torch.float64).unbind(dim=1)
    uniform = torch.rand(len(sizes), _ATTEMPTS, 4, dtype=torch.float64, generator=generator)
    area = (height * width)[:, None] * _between(augmentation.scale[0], augmentation.scale[1], uniform[..., 0])
    log_ratio = _between(math.log(augmentation.ratio[0]), math.log(augmentation.ratio[1]), uniform[..., 1])
    window_height = (area / log_ratio.exp()).sqrt().round()
    window_width = (area * log_ratio.exp()).sqrt().round()
    fits = (window_height >= 1) & (window_height <= height[:, None])
    fits &= (window_width >= 1) & (window_width <= width[:, None])
    top = (uniform[..., 2] * (height[:, None] - window_height + 1)).floor()
    left = (uniform[..., 3] * (width[:, None] - window_width + 1)).floor()
    attempts = torch.stack([top, left, window_height, window_width], dim=2)
    first = fits.to(torch.uint8).argmax(dim=1)  # of equal maxima, argmax takes the first
    drawn = attempts[torch.arange(len(sizes)), first]
    return torch.where(fits.any(dim=1)[:, None], drawn, _central(augmentation, height, width)).to(torch.int32)


def _between(low: float, high: float, uniform: Tensor) -> Tensor:
    return low + (high - low) * uniform


def _central(augmentation: RandomResizedCrop, height: Tensor, width: Tensor) -> Tensor:
    narrowest, widest = augmentation.ratio
    window_height = torch.minimum(height, (width / narrowest).round())
    window_width = torch.minimum(width, (height * widest).round())
    top = ((height - window_height) / 2).floor()
    left = ((width - window_width) / 2).floor()
    return torch.stack([top, left, window_height, window_width], dim=1)
