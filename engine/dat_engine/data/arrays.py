"""Images held as one uint8 tensor."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

__all__ = ["DatasetDescription", "ImageArrays", "unit_range"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDescription:
    """What is known of a data set before any image is read."""

    image_shape: tuple[int, int, int]  # (C, H, W)
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageArrays:
    """One split of a data set in memory.

    images: uint8 [N, C, H, W]; targets: int64 [N], positions in `class_names`.
    Raises TypeError for other dtypes, ValueError for shapes that do not fit or targets without a class name.
    """

    images: Tensor
    targets: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.targets.dtype != torch.int64:
            raise TypeError(
                f"images are {self.images.dtype} and targets {self.targets.dtype}; give uint8 images and int64 targets"
            )
        if self.images.ndim != 4 or len(self.images) == 0 or self.targets.shape != self.images.shape[:1]:
            raise ValueError(
                f"images have shape {tuple(self.images.shape)} and targets {tuple(self.targets.shape)}; "
                "give [N, C, H, W] and [N] with N of at least 1"
            )
        check_targets(self.targets, self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def select(self, indices: Tensor) -> Self:
        """The samples at `indices` (int64 [n]), in that order."""
        return replace(self, images=self.images[indices], targets=self.targets[indices])


UNIT_TOLERANCE = 1e-4
"""How far interpolation and rounding may carry a value out of [0, 1]."""


def unit_range(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]: value / 255, correctly rounded on every device."""
    # A Python number as divisor becomes a multiplication by 1/255 on CUDA, which is off by one ulp for some values.
    return images.to(torch.float32) / torch.full((), 255.0, device=images.device)


def check_targets(targets: Tensor, class_names: tuple[str, ...]) -> None:
    """Raise ValueError unless every target (int64 [N], N of at least 1) is a position in `class_names`."""
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= len(class_names):
        raise ValueError(
            f"targets run from {lowest} to {highest}, but there are {len(class_names)} class names; "
            f"targets must lie in 0..{len(class_names) - 1}"
        )
