"""Batches for evaluation: every sample once, in order, un-augmented."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dat_engine.data.arrays import ImageArrays, unit_range
from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.decoding import decoded_chunks
from dat_engine.data.files.files import ImageFiles, ImageSource

__all__ = ["batches"]


def batches(source: ImageSource, batch_size: int, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images float32 [B, C, H, W] in [0, 1], targets int64 [B]) on `device`; the last batch may be smaller.

    Files are decoded in threads, one batch ahead; a damaged one raises DataError, or is left out with a warning and
    makes its batch smaller where damaged files are to be skipped.

    Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; use at least 1")
    chunks = _from_memory(source, batch_size) if isinstance(source, ImageArrays) else _from_files(source, batch_size)
    return ((unit_range(images.to(device)), targets.to(device)) for images, targets in chunks)


def _from_memory(arrays: ImageArrays, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(arrays.images.split(batch_size), arrays.targets.split(batch_size), strict=True)


def _from_files(files: ImageFiles, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for images, indices in decoded_chunks(files, batch_size, CorruptFiles(files)):
        yield images, files.targets[indices]
