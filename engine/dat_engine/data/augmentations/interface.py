"""What every augmentation after crop and flip offers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from dat_engine.data.arrays import unit_range

__all__ = ["Draws", "ImageAugmentation", "as_levels"]

Draws = Mapping[str, Tensor]
"""The random numbers of an augmentation by name, the samples along the first axis of each."""


class ImageAugmentation(ABC):
    """Something that is done to each image by itself, after crop and flip. A frozen dataclass of its settings.

    Draws and their use are two functions, so that an epoch's numbers can be drawn at once and a test can hand in its own.
    """

    def check(self, image_shape: tuple[int, int, int], batch_size: int) -> None:
        """Raise UserError where images of this shape (C, H, W), or batches of this size, cannot be augmented so."""
        return

    @abstractmethod
    def draw(
        self, count: int, image_shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> Draws:
        """The random numbers for `count` images; `generator` lives on `device`."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images float32 [B, C, H, W], 8-bit values / 255, and their draws -> the same, augmented; waits for no device."""

    def apply_to_sample(self, image: Tensor) -> Tensor:
        """One image uint8 [C, H, W] -> the same, augmented with numbers of torch's CPU generator, as torchvision draws."""
        channels, height, width = image.shape
        draws = self.draw(1, (channels, height, width), torch.default_generator, image.device)
        return as_levels(self.apply(unit_range(image[None]), draws))[0].to(torch.uint8)


def as_levels(images: Tensor) -> Tensor:
    """Images in [0, 1] -> the nearest whole levels 0..255, float32."""
    return (images * 255).round()
