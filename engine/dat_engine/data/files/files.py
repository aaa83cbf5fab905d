"""Images held as files, and how a file becomes an image of the size that a model sees."""

from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import torch
from torch import Tensor

from dat_engine.data.arrays import ImageArrays, check_targets
from dat_engine.data_kinds import OnDamaged
from dat_engine.errors import UserError

__all__ = ["FileSettings", "ImageFiles", "ImageSource", "OnDamaged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """How the files of a data set are to be read; None stands for the data set's own value.

    image_size: edge of the square images in pixels; resize: what the shorter edge of a file is scaled to first;
    on_damaged: what happens to a file that cannot be decoded, see `ImageFiles`.

    Raises UserError for sizes below 1 or an `on_damaged` that does not exist.
    """

    image_size: int | None = None
    resize: int | None = None
    on_damaged: OnDamaged = "fatal"

    def __post_init__(self) -> None:
        for name, value in (("image_size", self.image_size), ("resize", self.resize)):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; use a positive number of pixels, or None for the data set's own")
        _check_on_damaged(self.on_damaged)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageFiles:
    """One split of a data set as image files, decoded when they are needed.

    paths: one file per sample; targets: int64 [N] on the CPU, positions in `class_names`.

    The un-augmented image is RGB uint8 [3, image_size, image_size]: the file's shorter edge is scaled to `resize`
    pixels (bilinear, antialiased; the longer one keeps the proportion, rounded down), then the centre is cut out (an
    odd pixel is left over at the right or at the bottom). Grey and CMYK files become RGB; the orientation that a
    camera noted is ignored, as torchvision does.

    on_damaged: a file that cannot be decoded stops the run ("fatal"), or is left out with a warning ("skip"): in
    training its place is taken by the next sample of the split that can be decoded, a choice that depends on the
    files alone, so that batches keep their size and a resumed run sees the same images; in evaluation it is dropped.

    Raises TypeError for targets of another dtype, UserError for sizes that do not fit, ValueError for whatever else does not.
    """

    paths: tuple[str, ...]
    targets: Tensor
    class_names: tuple[str, ...]
    image_size: int
    resize: int
    on_damaged: OnDamaged = "fatal"

    def __post_init__(self) -> None:
        if self.targets.dtype != torch.int64:
            raise TypeError(f"targets are {self.targets.dtype}; give int64 targets")
        if not self.paths or self.targets.shape != (len(self.paths),):
            raise ValueError(
                f"there are {len(self.paths)} paths and targets of shape {tuple(self.targets.shape)}; "
                "give N paths and targets [N] with N of at least 1"
            )
        if not 1 <= self.image_size <= self.resize:
            raise UserError(
                f"images of {self.image_size} pixels cannot be cut out of files whose shorter edge is scaled to "
                f"{self.resize}; image_size must be positive and at most resize"
            )
        _check_on_damaged(self.on_damaged)
        check_targets(self.targets, self.class_names)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    def select(self, indices: Tensor) -> Self:
        """The samples at `indices` (int64 [n]), in that order."""
        return replace(
            self, paths=tuple(self.paths[index] for index in indices.tolist()), targets=self.targets[indices]
        )


ImageSource: TypeAlias = ImageArrays | ImageFiles


def _check_on_damaged(value: str) -> None:
    if value not in ("skip", "fatal"):
        raise UserError(f"on_damaged is {value!r}; use 'skip' or 'fatal'")
