import pytest
import torch

from bench.amplitude_mix_precision import FORMATS, blocks_of, conjugate_pairs, generated_part, keep_bits, worst_pixels
from tests.kernels.inputs import generator


def test_keep_bits_rounds_as_bfloat16_does():
    values = torch.randn(10_000, generator=generator(0)) * 10 ** torch.linspace(-6, 6, 10_000)
    assert torch.equal(keep_bits(values, 8), values.bfloat16().float())


def test_blocks_are_the_inverse_of_pairs():
    blocks = torch.randn(2, 8, 8, dtype=torch.float64, generator=generator(0))
    torch.testing.assert_close(blocks_of(*conjugate_pairs(blocks)), blocks)


@pytest.mark.parametrize("size", [4, 16, 32])
def test_four_real_products_are_the_two_transforms(size):
    images, amplitude = torch.rand(2, 3, size, size, generator=generator(0)).unbind()
    spectrum = torch.fft.fft2(images.double())
    expected = torch.fft.ifft2(amplitude * spectrum / spectrum.abs()).real
    result = generated_part(images, amplitude, FORMATS["fp32"])
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)


def test_table_separates_the_formats_that_are_exact_enough_from_those_that_are_not():
    errors = {name: error.median().item() for name, error in worst_pixels(32, 32).items()}
    assert errors["fp32"] < 1e-6 and errors["tf32x3"] < 1e-6
    assert 1e-6 < errors["bf16x3"] < 1e-4
    assert 1e-4 < errors["tf32"] < 1 / 255 < errors["bf16"]
