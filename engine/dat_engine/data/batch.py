"""What a training loader yields, and what every loader offers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Batch", "Loader"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """One training batch on the device.

    images: float32 [B, C, H, W] in [0, 1], the augmented view; originals: the same samples un-augmented;
    targets: int64 [B], or soft labels, float32 [B, K], where the method takes them; indices: int64 [B], positions of the
    samples in the split; extra_views: float32 [V, B, C, H, W], V further augmented views with draws of their own, None where
    the loader was asked for none.

    Where a damaged file is skipped, all of them are those of the sample that takes its place.
    """

    images: Tensor
    originals: Tensor
    targets: Tensor
    indices: Tensor
    extra_views: Tensor | None = None


class Loader(Protocol):
    """Training batches of one process (rank); all batches are full, what is left over at the end is dropped."""

    @property
    def num_classes(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def batch_size(self) -> int:
        """Samples per batch of this process."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """The same on every process."""
        ...

    @property
    def damaged_files(self) -> tuple[str, ...]:
        """Paths of the files that could not be decoded, those of them that have been met so far."""
        ...

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on.

        A pure function of (seed, epoch, rank): started at a later step it yields exactly the rest of the whole
        sequence. Raises ValueError for a negative epoch or a start_step outside 0..steps_per_epoch; iterating raises
        DataError for a file that cannot be read, and for a damaged one where those are fatal.
        """
        ...
