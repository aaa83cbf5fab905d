import math

import pytest
import torch

from dat_kernels import amplitude_mix
from tests.kernels.inputs import assert_error_at_most_twice_eager, generator, make_images, needs
from tests.kernels.mixes import arguments, result_and_gradient, views

FAST_SIZES = (16, 32, 64)


def in_float64(*tensors):
    return tuple(tensor.double() for tensor in tensors)


def dft_matrix(n):
    k = torch.arange(n, dtype=torch.float64)
    angle = -2 * math.pi * (k[:, None] * k[None] % n) / n
    return torch.complex(angle.cos(), angle.sin())


@pytest.mark.parametrize("height", range(1, 66))
def test_native_errs_at_most_twice_as_much_as_eager_at_every_size(height, poisoned_memory, one_thread):
    needs("native")
    images, amplitude, lam = arguments((8, 2, height, 66 - height), kind="random")
    grad = torch.randn(images.shape, generator=generator(5))
    extra = views(8)
    exact = result_and_gradient(*in_float64(images, amplitude, lam, grad), "reference", **extra)
    eager = result_and_gradient(images, amplitude, lam, grad, "reference", **extra)
    native = result_and_gradient(images, amplitude, lam, grad, "native", **extra)
    for result, eager_result, exact_result in zip(native, eager, exact, strict=True):
        assert_error_at_most_twice_eager(result, eager_result, exact_result)


def test_every_instruction_set_errs_at_most_twice_as_much_as_eager(poisoned_memory):
    needs("native")
    from dat_kernels import _native

    before = _native.current_instruction_set()
    try:
        for name in _native.instruction_sets():
            _native.use_instruction_set(name)
            for size in FAST_SIZES:
                images, amplitude, lam = arguments((8, 3, size, size))
                grad = torch.randn(images.shape, generator=generator(5))
                exact = result_and_gradient(*in_float64(images, amplitude, lam, grad), "reference")
                eager = result_and_gradient(images, amplitude, lam, grad, "reference")
                native = result_and_gradient(images, amplitude, lam, grad, "native")
                for result, eager_result, exact_result in zip(native, eager, exact, strict=True):
                    assert_error_at_most_twice_eager(result, eager_result, exact_result)
    finally:
        _native.use_instruction_set(before)


@pytest.mark.parametrize("height", range(1, 66))
def test_reference_is_the_formula_with_explicit_dft_matrices(height, one_thread):
    width = 66 - height
    images, amplitude, lam = in_float64(*arguments((2, 1, height, width), kind="random"))
    rows, columns = dft_matrix(height), dft_matrix(width)
    spectrum = rows @ images.to(torch.complex128) @ columns
    phase = spectrum / spectrum.abs()
    generated = (rows.conj() @ (amplitude * phase) @ columns.conj()).real / (height * width)
    weight = lam[:, None, None, None]
    expected = ((1 - weight) * images + weight * generated).clamp(0, 1)
    torch.testing.assert_close(amplitude_mix(images, amplitude, lam, backend="reference"), expected, rtol=0, atol=1e-11)


def test_reference_equals_the_formulation_with_angles():
    images, amplitude, lam = in_float64(*arguments((4, 3, 32, 32), kind="random"))
    spectrum, weight = torch.fft.fft2(images), lam[:, None, None, None]
    blended = weight * amplitude + (1 - weight) * spectrum.abs()
    expected = torch.fft.ifft2(blended * torch.exp(1j * spectrum.angle())).real.clamp(0, 1)
    torch.testing.assert_close(amplitude_mix(images, amplitude, lam, backend="reference"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("size", [8, 16, 32])
def test_weight_zero_returns_the_image_and_black_images_get_phase_one(backend, size):
    needs(backend)
    images, amplitude, _ = arguments((3, 2, size, size), kind="random")
    torch.testing.assert_close(amplitude_mix(images, amplitude, torch.zeros(3), backend=backend), images)
    black = amplitude_mix(torch.zeros_like(images), amplitude, torch.ones(3), backend=backend)
    expected = torch.fft.ifft2(amplitude.double()).real.clamp(0, 1).float()
    torch.testing.assert_close(black, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_images_constant_along_one_axis_keep_phase_one_where_their_spectrum_is_zero(backend):
    needs(backend)
    stripes = torch.rand(2, 1, 32, 1, generator=generator(0)).expand(2, 1, 32, 32).contiguous()
    _, amplitude, lam = arguments((2, 1, 32, 32))
    exact = amplitude_mix(*in_float64(stripes, amplitude, lam), backend="reference")
    result = amplitude_mix(stripes, amplitude, lam, backend=backend)
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("shape", [(5, 3, 16, 16), (5, 3, 9, 14)])
@pytest.mark.parametrize("reach", [3, 40])
def test_crop_and_flip_move_the_mixed_image(backend, shape, reach, poisoned_memory):
    needs(backend)
    images, amplitude, lam = arguments(shape)
    extra = views(5, reach)
    mixed = amplitude_mix(images, amplitude, lam, backend=backend)
    expected = torch.zeros_like(mixed)
    _, _, height, width = shape
    for b in range(5):
        dy, dx = extra["crop_offsets"][b].tolist()
        for y in range(height):
            for x in range(width):
                source_y, source_x = y + dy, (width - 1 - x if extra["flip"][b] else x) + dx
                if 0 <= source_y < height and 0 <= source_x < width:
                    expected[b, :, y, x] = mixed[b, :, source_y, source_x]
    result = amplitude_mix(images, amplitude, lam, backend=backend, **extra)
    assert torch.equal(result, expected)
    narrow = dict(extra, crop_offsets=extra["crop_offsets"].int())
    assert torch.equal(amplitude_mix(images, amplitude, lam, backend=backend, **narrow), expected)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("size", [16, 32, 64, 15])
def test_gradient_is_the_adjoint_of_the_linear_part(backend, size):
    """Where nothing is clipped the mix is linear in the amplitude: <M v, g> = <v, gradient for g>."""
    needs(backend)
    images = 0.4 + 0.2 * make_images("one_over_f", (4, 2, size, size))
    _, direction, lam = arguments((4, 2, size, size))
    base = torch.zeros_like(images)
    grad = torch.randn(images.shape, generator=generator(3))
    extra = views(4)
    moved = amplitude_mix(images, base + 0.1 * direction, lam, backend=backend, **extra)
    still = amplitude_mix(images, base, lam, backend=backend, **extra)
    _, gradient = result_and_gradient(images, base, lam, grad, backend, **extra)
    forward = ((moved - still).double() / 0.1 * grad.double()).sum()
    backward = (direction.double() * gradient.double()).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 2, 5, 4), (2, 1, 1, 3), (1, 1, 6, 6)])
def test_gradients_to_amplitude_images_and_lam_match_finite_differences(shape):
    images, amplitude, lam = in_float64(*arguments(shape, kind="random"))
    images, amplitude = 0.3 + 0.4 * images, 0.3 * amplitude
    inputs = tuple(tensor.requires_grad_() for tensor in (images, amplitude, lam))
    extra = views(shape[0], reach=1)
    assert torch.autograd.gradcheck(lambda *args: amplitude_mix(*args, **extra, backend="reference"), inputs)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("size", [16, 12])
def test_gradient_passes_at_the_bounds_and_stops_beyond_them(backend, size):
    needs(backend)
    images, _, _ = arguments((1, 1, size, size), kind="random")
    images[..., 0, 0] = 0.0  # with no amplitude, (1 - lam) x is exactly 0 there: kept
    lam, grad = torch.full((1,), 0.5), torch.zeros_like(images)
    grad[..., 0, 0] = 1.0
    _, at_bound = result_and_gradient(images, torch.zeros_like(images), lam, grad, backend)
    spectrum = torch.fft.fft2(images.double())
    expected = 0.5 / size**2 * (spectrum / spectrum.abs()).conj().real  # FFT2 of a unit pulse at (0, 0) is 1
    torch.testing.assert_close(at_bound.double(), expected, rtol=0, atol=1e-6)
    bright = torch.zeros_like(images)
    bright[..., 0, 0] = 10.0 * size**2  # raises every pixel by 5
    _, beyond = result_and_gradient(images, bright, lam, grad, backend)
    assert torch.equal(beyond, torch.zeros_like(beyond))
