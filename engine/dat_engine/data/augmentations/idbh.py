"""IDBH, improved diversity and balanced hardness (Li and Spratling, ICLR 2023, arXiv 2301.09879)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dat_engine.data.augmentations.color_shape import ColorShape
from dat_engine.data.augmentations.crop_shift import CropShift
from dat_engine.data.augmentations.interface import Draws, ImageAugmentation
from dat_engine.data.augmentations.random_erasing import RandomErasing

__all__ = ["IDBH"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IDBH(ImageAugmentation):
    """`CropShift`, then `ColorShape`, then `RandomErasing`, behind a flip and in place of the padded crop.

    The defaults are the authors' weak form for CIFAR-10. Their strong one erases always, `RandomErasing(probability=1.0)`; for
    SVHN they use `CropShift(share=9 / 32)`, `ColorShape(policy="shape")` and `RandomErasing(probability=1.0, scale=(0.02,
    0.5))`.

    crop_shift: None leaves it out, for images that another random crop was cut out of.
    """

    crop_shift: CropShift | None = field(default_factory=CropShift)
    color_shape: ColorShape = field(default_factory=ColorShape)
    erasing: RandomErasing = field(default_factory=RandomErasing)

    def check(self, image_shape: tuple[int, int, int], batch_size: int) -> None:
        """Raise UserError for images that are neither grey nor of three colours."""
        for part in self._parts():
            part.check(image_shape, batch_size)

    def draw(
        self, count: int, image_shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> Draws:
        """The draws of all parts; no two have a name in common."""
        draws: dict[str, Tensor] = {}
        for part in self._parts():
            draws |= part.draw(count, image_shape, generator, device)
        return draws

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """See `ImageAugmentation.apply`."""
        for part in self._parts():
            images = part.apply(images, draws)
        return images

    def apply_to_sample(self, image: Tensor) -> Tensor:
        """See `ImageAugmentation.apply_to_sample`."""
        for part in self._parts():
            image = part.apply_to_sample(image)
        return image

    def _parts(self) -> Iterator[ImageAugmentation]:
        if self.crop_shift is not None:
            yield self.crop_shift
        yield self.color_shape
        yield self.erasing
