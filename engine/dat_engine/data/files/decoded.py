"""Whole splits of files decoded on the CPU, many files at a time."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from dat_engine.data.arrays import ImageArrays
from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.decoding import CorruptImage, centre_view, decode
from dat_engine.data.files.files import ImageFiles

__all__ = ["decode_all", "decoded_chunks", "usable_cores"]

_CHUNK = 256


def usable_cores() -> int:
    """CPU cores for this process: those it may run on, shared with the others that torchrun started here."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def decoded_chunks(files: ImageFiles, size: int, damaged: CorruptFiles) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images uint8 [n, 3, H, W], indices int64 [n]) in the order of the split, un-augmented, n at most `size`.

    Damaged files are recorded in `damaged` and left out. One chunk is decoded ahead while another is in use.
    """
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        ahead: deque[tuple[range, list[Future[Tensor | CorruptImage]]]] = deque()
        try:
            for start in range(0, len(files), size):
                indices = range(start, min(start + size, len(files)))
                ahead.append((indices, [pool.submit(_view_or_damage, files, index) for index in indices]))
                if len(ahead) == 2:
                    yield from _collected(*ahead.popleft(), damaged)
            while ahead:
                yield from _collected(*ahead.popleft(), damaged)
        finally:
            pool.shutdown(cancel_futures=True)


def decode_all(files: ImageFiles, damaged: CorruptFiles) -> ImageArrays:
    """The whole split in memory, N * 3 * image_size² bytes.

    In the place of a damaged file that is to be skipped lies a copy of the sample that stands in for it.
    """
    images = torch.empty((len(files), *files.image_shape), dtype=torch.uint8)
    present = torch.zeros(len(files), dtype=torch.bool)
    for chunk, indices in decoded_chunks(files, _CHUNK, damaged):
        images[indices] = chunk
        present[indices] = True
    targets = files.targets.clone()
    for index in (~present).nonzero().squeeze(1).tolist():
        stand_in = damaged.stand_in(index)
        images[index], targets[index] = images[stand_in], targets[stand_in]
    return ImageArrays(images=images, targets=targets, class_names=files.class_names)


def _view_or_damage(files: ImageFiles, index: int) -> Tensor | CorruptImage:
    try:
        return centre_view(decode(files.paths[index]), files)
    except CorruptImage as error:
        return error


def _collected(
    indices: range, futures: list[Future[Tensor | CorruptImage]], damaged: CorruptFiles
) -> Iterator[tuple[Tensor, Tensor]]:
    views, kept = [], []
    for index, future in zip(indices, futures, strict=True):
        view = future.result()
        if isinstance(view, CorruptImage):
            damaged.record(index, str(view))
        else:
            views.append(view)
            kept.append(index)
    if views:
        yield torch.stack(views), torch.tensor(kept)
