"""Batches for evaluation: every sample once, in order, un-augmented."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dat_engine.data.arrays import ImageArrays, unit_range
from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.decoding import decoded_chunks
from dat_engine.data.files.files import ImageFiles, ImageSource

__all__ = ["batches", "indexed_batches"]


def batches(source: ImageSource, batch_size: int, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images float32 [B, C, H, W] in [0, 1], targets int64 [B]) on `device`; the last batch may be smaller.

    Files are decoded in threads, one batch ahead; a damaged one raises DataError, or is left out with a warning and
    makes its batch smaller where damaged files are to be skipped.

    Raises ValueError for a batch size below 1.
    """
    return ((images, targets) for images, targets, _ in indexed_batches(source, batch_size, device))


def indexed_batches(
    source: ImageSource, batch_size: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """As `batches`, each with the positions of its samples in the split, int64 [B] on the CPU."""
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; use at least 1")
    chunks = _from_memory(source, batch_size) if isinstance(source, ImageArrays) else _from_files(source, batch_size)
    return ((unit_range(images.to(device)), targets.to(device), indices) for images, targets, indices in chunks)


def _from_memory(arrays: ImageArrays, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    parts = (arrays.images, arrays.targets, torch.arange(len(arrays)))
    return zip(*(part.split(batch_size) for part in parts), strict=True)


def _from_files(files: ImageFiles, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for images, indices in decoded_chunks(files, batch_size, CorruptFiles(files)):
        yield images, files.targets[indices], indices
