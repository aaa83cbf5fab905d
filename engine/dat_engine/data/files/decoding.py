"""From image files to pixels: the only place where Python code here decodes; single files, and whole splits on threads."""

import os
import struct
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dat_engine.data.arrays import ImageArrays
from dat_engine.data.errors import DataError
from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.files import ImageFiles

__all__ = [
    "CorruptImage",
    "centre_view",
    "decode",
    "decode_all",
    "decoded_chunks",
    "examine",
    "size_in_file",
    "usable_cores",
]

if TYPE_CHECKING:
    from PIL import Image

# What Pillow raises for content that it cannot make sense of, besides its own error for images that are too large;
# OSError also stands for files that cannot be read.
_UNDECODABLE = (EOFError, IndexError, OSError, SyntaxError, ValueError, struct.error)
_CHUNK = 256


class CorruptImage(Exception):
    """A file was read, but its content cannot be decoded; the message is the reason, without the path."""


def decode(path: str) -> Tensor:
    """The pixels of an image file as RGB: uint8 [3, height, width], any size.

    Raises CorruptImage where the content cannot be decoded, DataError where the file cannot be read at all.
    """
    with _opened(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def size_in_file(path: str) -> tuple[int, int]:
    """(height, width) out of an image file's header. Raises as `decode` does; the pixels are not looked at."""
    with _opened(path) as image:
        return image.height, image.width


def centre_view(pixels: Tensor, files: ImageFiles) -> Tensor:
    """The un-augmented image (see `ImageFiles`) of a decoded file: uint8 [3, H, W] -> [3, image_size, image_size]."""
    height, width = pixels.shape[1:]
    shorter = min(height, width)
    if shorter != files.resize:
        height, width = height * files.resize // shorter, width * files.resize // shorter
        pixels = torch.nn.functional.interpolate(
            pixels.unsqueeze(0), size=(height, width), mode="bilinear", antialias=True
        ).squeeze(0)
    top, left = (height - files.image_size) // 2, (width - files.image_size) // 2
    return pixels[:, top : top + files.image_size, left : left + files.image_size].contiguous()


def examine(index: int, damaged: CorruptFiles) -> bool:
    """Whether the file of this sample is damaged: decode it, and record it in `damaged` where that fails.

    Raises DataError where the file cannot be read at all, and as `CorruptFiles.record` does.
    """
    try:
        decode(damaged.files.paths[index])
    except CorruptImage as error:
        damaged.record(index, str(error))
        return True
    return False


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


@contextmanager
def _opened(path: str) -> "Iterator[Image.Image]":
    from PIL import Image, UnidentifiedImageError  # data sets in memory do without Pillow

    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError:
        raise CorruptImage("not an image in a known format") from None
    except (*_UNDECODABLE, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"image file {path} cannot be read ({error.strerror or error}); check the path, its permissions and "
                "the disk"
            ) from None
        raise CorruptImage(str(error) or type(error).__name__) from None


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
