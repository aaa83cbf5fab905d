"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1.

The interpreter multiplies in float32 where the GPU has TF32 passes, and cuts off to bfloat16 where the GPU rounds.
"""

import numpy as np
import pytest
import torch

from dat_kernels import amplitude_mix
from dat_kernels.amplitude_mix import triton_backend
from tests.kernels.inputs import KINDS, assert_error_at_most_twice_eager, generator, make_images

FAST_SIZES = ((16, 16), (32, 32), (64, 64))
OTHER_SIZES = ((7, 9), (33, 33), (12, 20), (1, 5), (8, 64))
ONE_OF_EACH_PATH = ((16, 16), (32, 32), (64, 64), (7, 9))
pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


def arguments(size, kind="one_over_f", dtype=torch.float32, batch=2, channels=3, scale=3.0):
    shape = (batch, channels, *size)
    images = make_images(kind, shape).to(dtype)
    amplitude = (scale * torch.rand(shape, generator=generator(1))).to(dtype)
    grad = torch.randn(shape, generator=generator(2)).to(dtype)
    return images, amplitude, torch.rand(batch, generator=generator(3)), grad


def result_and_gradient(images, amplitude, lam, grad, backend, **extra):
    amplitude = amplitude.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    mixed = amplitude_mix(images, amplitude, lam, backend=backend, **extra)
    (gradient,) = torch.autograd.grad(mixed, amplitude, grad)
    return mixed.detach(), gradient


def check(images, amplitude, lam, grad, **extra):
    exact = result_and_gradient(*(t.double() for t in (images, amplitude, lam, grad)), "reference", **extra)
    eager = result_and_gradient(images, amplitude, lam, grad, "reference", **extra)
    triton = result_and_gradient(images, amplitude, lam, grad, "triton", **extra)
    for result, eager_result, exact_result in zip(triton, eager, exact, strict=True):
        assert result.dtype == images.dtype
        assert result.stride() == eager_result.stride()
        assert_error_at_most_twice_eager(result, eager_result, exact_result)


@pytest.mark.parametrize("size", FAST_SIZES + OTHER_SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_errs_at_most_twice_as_much_as_eager(size, kind):
    if kind == "flat" and size in OTHER_SIZES:
        pytest.skip("FFTs of this size leave rounding noise, whose phase is arbitrary, where the exact spectrum is 0")
    check(*arguments(size, kind, batch=4 if size in FAST_SIZES else 6))


@pytest.mark.parametrize("size", FAST_SIZES)
@pytest.mark.parametrize("axis", (2, 3))
def test_images_constant_along_an_axis_have_the_zeros_of_an_fft(size, axis, monkeypatch):
    # A GPU computes equal rows alike. NumPy's product does not, unless all that it rounds is the result.
    product = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, dtype: product(a, b, dtype=np.float64).astype(dtype))
    images, *others = arguments(size, "random")
    check(images.select(axis, 0).unsqueeze(axis).expand_as(images).contiguous(), *others)


@pytest.mark.parametrize("size", ONE_OF_EACH_PATH)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last))
def test_other_dtypes_and_memory_formats(size, dtype, memory_format):
    images, amplitude, lam, grad = arguments(size, dtype=dtype)
    check(*(t.to(memory_format=memory_format) for t in (images, amplitude)), lam, grad.to(memory_format=memory_format))


@pytest.mark.parametrize("size", ONE_OF_EACH_PATH)
@pytest.mark.parametrize("flip", (None, (True, False, True)))
@pytest.mark.parametrize("crop", (None, ((99, 0), (0, -(2**40)), (-4, 3))))
def test_crops_and_flips(size, crop, flip):
    extra = {
        "crop_offsets": None if crop is None else torch.tensor(crop),
        "flip": None if flip is None else torch.tensor(flip),
    }
    check(*arguments(size, batch=3), **extra)


@pytest.mark.parametrize("size", ONE_OF_EACH_PATH)
def test_any_strides(size):
    images, amplitude, lam, grad = arguments(size)
    height, width = size
    wide = torch.zeros(2, 3, 2 * height, 3 * width)
    wide[..., ::2, 1::3] = amplitude
    grad = grad[:1].expand_as(grad)
    extra = {"crop_offsets": torch.tensor([[1, 2]], dtype=torch.int32).expand(2, 2), "flip": torch.ones(4).bool()[::2]}
    expected = amplitude_mix(images, amplitude, lam, backend="reference", **extra)
    strided = (images.mT.contiguous().mT, wide[..., ::2, 1::3], lam.repeat(2, 1).T[:, 0])
    torch.testing.assert_close(amplitude_mix(*strided, backend="triton", **extra), expected, atol=1e-6, rtol=0)
    check(*strided, grad, **extra)


@pytest.mark.parametrize("size", ONE_OF_EACH_PATH)
def test_channels_mixed_across_images_and_amplitude_formats(size):
    images, amplitude, lam, grad = arguments(size)
    check(images, amplitude.to(memory_format=torch.channels_last), lam, grad.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("size", ONE_OF_EACH_PATH)
def test_large_amplitudes_keep_their_places(size):
    check(*arguments(size, scale=200.0))


@pytest.mark.parametrize("size", ONE_OF_EACH_PATH)
def test_lam_0_returns_the_image(size):
    images, amplitude, lam, _ = arguments(size)
    torch.testing.assert_close(amplitude_mix(images, amplitude, 0 * lam, backend="triton"), images, atol=0, rtol=0)


@pytest.mark.parametrize("size", ONE_OF_EACH_PATH)
def test_one_nan_pixel_spoils_its_plane_alone(size):
    images, amplitude, lam, _ = arguments(size)
    images[1, 0, 0, 0] = torch.nan
    spoilt = amplitude_mix(images, amplitude, lam, backend="triton").isnan().flatten(2)
    assert spoilt[1, 0].all()
    assert spoilt.any(2).sum() == 1


def test_an_empty_batch_launches_nothing():
    images, amplitude, lam, _ = arguments((32, 32))
    assert amplitude_mix(images[:0], amplitude[:0], lam[:0], backend="triton").shape == (0, 3, 32, 32)


def test_a_plane_of_several_programs(monkeypatch):
    monkeypatch.setattr(triton_backend, "ELEMENTS_PER_PROGRAM", 64)
    check(
        *arguments((12, 20), channels=6),
        crop_offsets=torch.tensor([[1, -2], [0, 3]]),
        flip=torch.tensor([True, False]),
    )


@pytest.mark.parametrize("size", FAST_SIZES)
def test_plans_of_older_devices(size, monkeypatch):
    monkeypatch.setattr(triton_backend, "_capability", lambda images: 8)
    check(*arguments(size))


def test_every_plan_has_a_size_of_a_fast_path():
    for plans in (triton_backend.FORWARD_PLANS, triton_backend.BACKWARD_PLANS):
        assert plans[9, 10].keys() == {size for size, _ in FAST_SIZES}
        assert all(by_size.keys() <= plans[9, 10].keys() for by_size in plans.values())


def test_phases_of_frequencies_whose_squares_underflow():
    images, *others = arguments((7, 9), "random", batch=6)
    check(images * 1e-30, *others)
