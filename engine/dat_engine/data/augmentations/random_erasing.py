"""Random Erasing (Zhong et al., AAAI 2020, arXiv 1708.04896): a black rectangle in some of the images."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dat_engine.data.augmentations.boxes import erased
from dat_engine.data.augmentations.interface import Draws, ImageAugmentation
from dat_engine.errors import UserError

__all__ = ["RandomErasing"]

_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomErasing(ImageAugmentation):
    """With `probability`, a rectangle of 0 at a uniform place; see torchvision.transforms.v2.RandomErasing.

    scale: range of the rectangle's share of the area, uniform; ratio: of its height over its width, uniform in the logarithm.
    The first of ten draws that is smaller than the image both ways counts; where none is, nothing is erased.

    Raises UserError for a probability outside [0, 1], or ranges that are none.
    """

    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"random erasing's probability is {self.probability:g}; use a number in [0, 1]")
        if not (0 <= self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1] < math.inf):
            raise UserError(
                f"random erasing's scale is {self.scale} and its ratio {self.ratio}; give shares of the area with "
                "0 <= low <= high <= 1 and aspect ratios with 0 < low <= high"
            )

    def draw(
        self, count: int, image_shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> Draws:
        """``box`` int32 [B, 4], (top, left, bottom, right), empty where nothing is erased."""
        _, height, width = image_shape
        uniform = torch.rand(count, _ATTEMPTS, 4, generator=generator, device=device)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * uniform[..., 0])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = (low + (high - low) * uniform[..., 1]).exp()
        box_height, box_width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (box_height < height) & (box_width < width)
        top = (uniform[..., 2] * (height - box_height + 1)).floor().clamp_max(height - box_height)
        left = (uniform[..., 3] * (width - box_width + 1)).floor().clamp_max(width - box_width)
        attempts = torch.stack([top, left, top + box_height, left + box_width], dim=2)
        first = fits.to(torch.uint8).argmax(dim=1)  # of equal maxima, argmax takes the first
        box = attempts.gather(1, first[:, None, None].expand(count, 1, 4))[:, 0]
        erases = fits.any(dim=1) & (torch.rand(count, generator=generator, device=device) < self.probability)
        return {"box": torch.where(erases[:, None], box, 0).to(torch.int32)}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """See `ImageAugmentation.apply`."""
        return erased(images, draws["box"])
