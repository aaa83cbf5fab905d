"""Images held as one uint8 tensor, and the ways of choosing some of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DatasetDescription", "ImageArrays", "hold_out", "mean_amplitude", "take", "unit_range"]

# 1,024 CIFAR images are 12 MB in float32 and 25 MB as complex64: small beside the data set, large enough for the FFT.
_FFT_CHUNK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDescription:
    """What is known of a data set before any file is opened."""

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
        lowest, highest = int(self.targets.min()), int(self.targets.max())
        if lowest < 0 or highest >= len(self.class_names):
            raise ValueError(
                f"targets run from {lowest} to {highest}, but there are {len(self.class_names)} class names; "
                f"targets must lie in 0..{len(self.class_names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def select(self, indices: Tensor) -> "ImageArrays":
        """The samples at `indices` (int64 [n]), in that order."""
        return ImageArrays(images=self.images[indices], targets=self.targets[indices], class_names=self.class_names)


def unit_range(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]: value / 255, correctly rounded on every device."""
    # A Python number as divisor becomes a multiplication by 1/255 on CUDA, which is off by one ulp for some values.
    return images.to(torch.float32) / torch.full((), 255.0, device=images.device)


def take(arrays: ImageArrays, n: int, seed: int) -> ImageArrays:
    """A random subset of n samples in their original order, its classes as equal in size as the data allow.

    A pure function of (arrays, n, seed); the subset of n is part of the subset of n + 1.
    Raises ValueError where n is not in 1..len(arrays).
    """
    if not 1 <= n <= len(arrays):
        raise ValueError(
            f"cannot take {n} images from a split of {len(arrays)}; ask for a number from 1 to {len(arrays)}"
        )
    return arrays.select(_balanced_order(arrays, seed)[:n].sort().values)


def hold_out(arrays: ImageArrays, count: int, seed: int) -> tuple[ImageArrays, ImageArrays]:
    """Split off `count` samples for validation, classes as equal in size as the data allow: (train, validation).

    The two are disjoint, together they are the whole, both keep the original order; a pure function of
    (arrays, count, seed). Raises ValueError where either part would be empty.
    """
    if not 1 <= count < len(arrays):
        raise ValueError(
            f"cannot hold {count} images out of a split of {len(arrays)}; "
            f"ask for a number from 1 to {len(arrays) - 1}, so that both parts hold at least one image"
        )
    order = _balanced_order(arrays, seed)
    return arrays.select(order[count:].sort().values), arrays.select(order[:count].sort().values)


def mean_amplitude(arrays: ImageArrays) -> Tensor:
    """Mean of |FFT2(x)| over all images x in [0, 1]: float32 [C, H, W], plain FFT order ((0, 0) is DC)."""
    total = torch.zeros(arrays.image_shape, dtype=torch.float64, device=arrays.images.device)
    for chunk in arrays.images.split(_FFT_CHUNK):
        total += torch.fft.fft2(unit_range(chunk)).abs().sum(dim=0, dtype=torch.float64)
    return (total / len(arrays)).to(torch.float32)


def _balanced_order(arrays: ImageArrays, seed: int) -> Tensor:
    """Positions [N] in rounds: one random sample of every class that has any left, classes in random order."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(arrays), generator=generator)
    class_order = torch.randperm(arrays.num_classes, generator=generator)
    targets = arrays.targets.cpu()[shuffled]
    by_class = targets.argsort(stable=True)
    class_start = torch.bincount(targets, minlength=arrays.num_classes).cumsum(0).roll(1)
    class_start[0] = 0
    turn = torch.empty_like(targets)
    turn[by_class] = torch.arange(len(arrays)) - class_start[targets[by_class]]
    return shuffled[(turn * arrays.num_classes + class_order[targets]).argsort()].to(arrays.images.device)
