"""Pictures for the tests of image files, ways to damage them, and the mark of tests that need DALI."""

from pathlib import Path

import numpy as np
import pytest

from dat_engine.data import dali_installed

needs_dali = pytest.mark.skipif(
    not dali_installed(), reason="NVIDIA DALI is not installed; pip install 'dat-engine[dali]'"
)


def photograph(height, width, seed):
    """An RGB image whose spectrum falls like that of a photograph (1/f), so that neighbouring pixels are alike."""
    from PIL import Image  # where only torch is installed, the tests of this folder that need no pictures run

    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    waves = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, height, width))) / frequency).real
    pixels = (waves - waves.mean()) / waves.std() * 50 + 128
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())


def damage(path):
    """Cut a file's second half off."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
