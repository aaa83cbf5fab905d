"""CropShift (Li and Spratling, ICLR 2023, arXiv 2301.09879): a part of the image, put back at another place."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dat_engine.data.augmentations.interface import Draws, ImageAugmentation
from dat_engine.errors import UserError

__all__ = ["CropShift"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropShift(ImageAugmentation):
    """Cut a number of rows and columns away, at random sides, and put the rest anywhere into a black image of the old size.

    share: what is cut away, both ways together, stays below this share of the image's shorter edge: uniform over the whole
    pixels below it, and split between rows and columns uniformly. The paper's 11 pixels for CIFAR-10 are 11/32.

    Raises UserError for a share outside (0, 1].
    """

    share: float = 11 / 32

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"CropShift's share is {self.share:g}; use a part of the image's edge in (0, 1]")

    def draw(
        self, count: int, image_shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> Draws:
        """``cut``, ``start`` and ``place`` int32 [B, 2], (y, x): rows and columns that go, where in the image the rest begins,
        and where it is put.
        """
        uniform = torch.rand(count, 6, generator=generator, device=device)
        strength = _below(uniform[:, 0], max(1, round(self.share * min(image_shape[1:]))))
        across = _below(uniform[:, 1], strength + 1)
        cut = torch.stack([strength - across, across], dim=1)
        return {"cut": cut, "start": _below(uniform[:, 2:4], cut + 1), "place": _below(uniform[:, 4:6], cut + 1)}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """See `ImageAugmentation.apply`."""
        height, width = images.shape[2:]
        rows, in_rows = _source(draws, 0, height)
        columns, in_columns = _source(draws, 1, width)
        pixel = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None].expand(-1, images.shape[1], -1)
        outside = ~(in_rows[:, None, :, None] & in_columns[:, None, None, :])
        return images.flatten(2).gather(2, pixel).view_as(images).masked_fill_(outside, 0)


def _below(uniform: Tensor, bound: Tensor | int) -> Tensor:
    """Numbers in [0, 1) -> whole numbers 0..bound - 1, int32."""
    return (uniform * bound).to(torch.int32).clamp_max(bound - 1)


def _source(draws: Draws, axis: int, edge: int) -> tuple[Tensor, Tensor]:
    """For every row (or column) of the result the one that it shows, int64 [B, edge], and whether it shows any."""
    cut, start, place = (draws[name][:, axis, None] for name in ("cut", "start", "place"))
    position = torch.arange(edge, device=cut.device) - place
    return (position + start).clamp(0, edge - 1), (position >= 0) & (position < edge - cut)
