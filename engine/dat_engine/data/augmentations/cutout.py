"""CutOut (DeVries and Taylor, 2017, arXiv 1708.04552): one black square in every image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dat_engine.data.augmentations.boxes import clipped_boxes, erased
from dat_engine.data.augmentations.interface import Draws, ImageAugmentation
from dat_engine.errors import UserError

__all__ = ["Cutout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout(ImageAugmentation):
    """A square of 0 whose centre is uniform over the image's pixels; what would lie outside of the image is cut off.

    share: edge of the square over the image's shorter edge. The paper's 16 pixels for CIFAR-10 are 1/2, its 8 for CIFAR-100
    1/4. The authors fill with 0 after normalising, which is the mean colour; images are not normalised here, and 0 is black.

    Raises UserError for a share outside (0, 1].
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"CutOut's share is {self.share:g}; use a part of the image's edge in (0, 1]")

    def draw(
        self, count: int, image_shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> Draws:
        """``box`` int32 [B, 4], (top, left, bottom, right)."""
        _, height, width = image_shape
        centre = torch.stack(
            [torch.randint(edge, (count,), generator=generator, device=device) for edge in (height, width)], dim=1
        )
        half = torch.full_like(centre, round(self.share * min(height, width)) // 2)
        return {"box": clipped_boxes(centre, half, height, width)}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """See `ImageAugmentation.apply`."""
        return erased(images, draws["box"])
