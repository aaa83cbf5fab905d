"""The mean amplitude that the generator's output is measured in."""

import pytest
import torch

from dat.methods.dat.amplitude import mean_amplitude
from dat_engine.data import ImageArrays, take
from dat_engine.data.files.decoding import centre_view, decode
from tests.engine.data import conftest

jpegs, small_arrays = conftest.jpegs, conftest.small_arrays


def _originals(files):
    return torch.stack([centre_view(decode(path), files) for path in files.paths])


@pytest.mark.parametrize("n", [3, 1500])  # 1500: more than one chunk, the last one partial
def test_mean_amplitude_is_the_mean_of_the_absolute_transforms(small_arrays, n):
    arrays = small_arrays(n, image_shape=(2, 5, 4))
    expected = torch.fft.fft2(arrays.images.double() / 255).abs().mean(0)
    found = mean_amplitude(arrays)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_mean_amplitude_has_dc_first():
    images = torch.full((2, 1, 4, 6), 51, dtype=torch.uint8)
    arrays = ImageArrays(images=images, targets=torch.zeros(2, dtype=torch.int64), class_names=("only",))
    expected = torch.zeros(1, 4, 6)
    expected[0, 0, 0] = 0.2 * 24
    torch.testing.assert_close(mean_amplitude(arrays), expected)


def test_mean_amplitude_of_files_is_that_of_their_originals(jpegs):
    files = jpegs(70, sizes=((20, 16), (16, 16)))  # more than one chunk
    expected = torch.fft.fft2(_originals(files).double() / 255).abs().mean(0)
    torch.testing.assert_close(mean_amplitude(files).double(), expected, rtol=1e-5, atol=1e-5)


def test_mean_amplitude_of_many_files_is_that_of_a_balanced_sample(jpegs, monkeypatch):
    monkeypatch.setattr("dat.methods.dat.amplitude._MOST_FILES", 8)
    files = jpegs(24)
    originals = _originals(files).double() / 255
    found = mean_amplitude(files)
    sample = take(files, 8, seed=0)
    assert torch.bincount(sample.targets).tolist() == [2, 2, 2, 2]
    chosen = [files.paths.index(path) for path in sample.paths]
    expected = torch.fft.fft2(originals[chosen]).abs().mean(0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
