"""From one image file to pixels: the only place where Python code here decodes."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dat_engine.data.errors import DataError
from dat_engine.data.files.files import ImageFiles

__all__ = ["CorruptImage", "centre_view", "decode", "size_in_file"]

# What Pillow raises for content that it cannot make sense of; OSError also stands for files that cannot be read.
_UNDECODABLE = (EOFError, IndexError, OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


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


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError:
        raise CorruptImage("not an image in a known format") from None
    except _UNDECODABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"image file {path} cannot be read ({error.strerror or error}); check the path, its permissions and "
                "the disk"
            ) from None
        raise CorruptImage(str(error) or type(error).__name__) from None
