"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1."""

import itertools

import pytest
import torch

from dat_kernels import pgd_start, pgd_step
from dat_kernels.pgd_step import triton_backend
from tests.kernels.inputs import generator

FORMATS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((2, 3, 32, 32), (3, 3, 5, 7), (1, 1, 1, 1))
pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


def step_arguments(shape, dtype=torch.float32, gradient_dtype=torch.float32):
    """Images, points of the box and its surroundings, gradients; with bounds hit exactly, zeros and NaN among them."""
    random = generator(0)
    images = torch.rand(shape, generator=random).to(dtype)
    adversarial = (images + 0.05 * torch.randn(shape, generator=random)).clamp(0, 1).to(dtype)
    gradient = torch.randn(shape, generator=random).to(gradient_dtype)
    if images.numel() > 20:
        images.view(-1)[:3] = torch.tensor([0.0, 1.0, 0.5])
        adversarial.view(-1)[:9] = images.view(-1)[:9]
        gradient.view(-1)[::5] = 0
        adversarial.view(-1)[11], images.view(-1)[12], gradient.view(-1)[13] = torch.nan, torch.nan, torch.nan
    return adversarial, gradient, images


def assert_same_bits(result, expected):
    assert torch.equal(result.isnan(), expected.isnan())
    integer = {2: torch.int16, 4: torch.int32}[result.element_size()]
    assert torch.equal(
        result.nan_to_num(7).contiguous().view(integer), expected.nan_to_num(7).contiguous().view(integer)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("on_device", (False, True))
@pytest.mark.parametrize("formats", list(itertools.product(FORMATS, repeat=3)))
@pytest.mark.parametrize("gradient_dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_step_has_the_bits_of_eager(shape, on_device, formats, gradient_dtype):
    adversarial, gradient, images = step_arguments(shape, gradient_dtype=gradient_dtype)
    adversarial, gradient, images = (
        t.to(memory_format=f) for t, f in zip((adversarial, gradient, images), formats, strict=True)
    )
    step_size, epsilon = (torch.tensor(2 / 255), torch.tensor(8 / 255)) if on_device else (2 / 255, 8 / 255)
    low, high = images - epsilon, images + epsilon
    eager = (adversarial + step_size * gradient.sign().float()).maximum(low).minimum(high).clamp(0, 1)
    result = pgd_step(adversarial, gradient, images, step_size=step_size, epsilon=epsilon, backend="triton")
    assert_same_bits(result, eager)


@pytest.mark.parametrize("model_format", FORMATS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
@pytest.mark.parametrize("epsilon", (0.031, 0.03))
def test_step_in_place_with_both_extra_results(model_format, dtype, epsilon):
    """With epsilon = step_size a step from the image itself ends on the bound without being cut off."""
    adversarial, gradient, images = step_arguments((2, 3, 8, 8), dtype)
    settings = {"step_size": 0.03, "epsilon": epsilon}
    results = []
    for backend in ("triton", "reference"):
        moving = adversarial.clone()
        model_input = torch.empty(images.shape, dtype=torch.float16, memory_format=model_format)
        active = torch.empty(images.shape, dtype=torch.bool)
        returned = pgd_step(
            moving, gradient, images, **settings, out=moving, model_input=model_input, active=active, backend=backend
        )
        assert returned is moving
        results.append((moving, model_input, active))
    (moving, model_input, active), (moving_, model_input_, active_) = results
    assert_same_bits(moving, moving_)
    assert_same_bits(model_input, model_input_)
    assert torch.equal(active, active_)
    assert active.any()
    assert not active.all()


def batch_innermost(tensor):
    """The same values in a memory order in which a run of memory goes through all samples."""
    return tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


LAYOUTS = {
    "contiguous": torch.clone,
    "channels_last": lambda tensor: tensor.to(memory_format=torch.channels_last),
    "batch innermost": batch_innermost,
}
# one value, a batch of one, samples shorter than a program's 1024 elements, as long, longer
SHAPES_PER_SAMPLE = ((3, 1, 1, 1), (1, 3, 5, 7), (3, 3, 5, 7), (2, 1, 32, 32), (3, 3, 19, 20))


@pytest.mark.parametrize("shape", SHAPES_PER_SAMPLE)
@pytest.mark.parametrize("kind", ("step size", "epsilon", "both"))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gradient_layout", LAYOUTS)
def test_step_per_sample_has_the_bits_of_eager(shape, kind, layout, gradient_layout):
    adversarial, gradient, images = step_arguments(shape)
    steps, epsilons = (width * torch.rand(shape[0], generator=generator(5)) for width in (4 / 255, 16 / 255))
    step_size = torch.tensor(2 / 255) if kind == "epsilon" else steps
    epsilon = 8 / 255 if kind == "step size" else epsilons
    step, bound = (
        value[:, None, None, None] if isinstance(value, torch.Tensor) and value.dim() else value
        for value in (step_size, epsilon)
    )
    eager = (adversarial + step * gradient.sign()).maximum(images - bound).minimum(images + bound).clamp(0, 1)
    adversarial, images = (LAYOUTS[layout](tensor) for tensor in (adversarial, images))
    gradient = LAYOUTS[gradient_layout](gradient)
    result = pgd_step(adversarial, gradient, images, step_size=step_size, epsilon=epsilon, backend="triton")
    assert_same_bits(result, eager)


def test_step_per_sample_in_place_with_both_extra_results():
    adversarial, gradient, images = step_arguments((3, 3, 19, 20), torch.float16)
    settings = {"step_size": torch.tensor([0.02, 0.0, 0.03]), "epsilon": torch.tensor([0.03, 0.01, 0.0])}
    results = []
    for backend in ("triton", "reference"):
        moving, active = adversarial.clone(), torch.empty(images.shape, dtype=torch.bool)
        model_input = torch.empty(images.shape, dtype=torch.float32)
        pgd_step(
            moving, gradient, images, **settings, out=moving, model_input=model_input, active=active, backend=backend
        )
        results.append((moving, model_input, active))
    for result, expected in zip(*(result[:2] for result in results), strict=True):
        assert_same_bits(result, expected)
    assert torch.equal(results[0][2], results[1][2])
    assert_same_bits(results[0][0][2], images[2])


@pytest.mark.parametrize("shape", SHAPES_PER_SAMPLE)
@pytest.mark.parametrize("kind", ("scale", "epsilon", "both"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_start_per_sample_has_the_bits_of_the_reference(shape, kind, layout):
    images = LAYOUTS[layout](torch.rand(shape, generator=generator(0)))
    scales, epsilons = (width * torch.rand(shape[0], generator=generator(5)) for width in (0.2, 0.1))
    scale, epsilon = 0.15 if kind == "epsilon" else scales, None if kind == "scale" else epsilons
    settings = {"noise": "uniform", "scale": scale, "seed": 3, "offset": 1, "epsilon": epsilon}
    result, expected = (pgd_start(images, **settings, backend=backend) for backend in ("triton", "reference"))
    assert_same_bits(result, expected)


@pytest.mark.parametrize("per_sample", (False, True))
def test_step_and_start_with_64_bit_indices(monkeypatch, per_sample):
    monkeypatch.setattr(triton_backend, "_is_wide", lambda count: True)
    adversarial, gradient, images = step_arguments((3, 3, 5, 7))
    step_size, epsilon = torch.tensor([0.02, 0.03, 0.0]), torch.tensor([0.03, 0.0, 0.031])
    settings = {"step_size": step_size, "epsilon": epsilon} if per_sample else {"step_size": 0.03, "epsilon": 0.031}
    gradient = gradient.to(memory_format=torch.channels_last)
    result, expected = (
        pgd_step(adversarial, gradient, images, **settings, backend=backend) for backend in ("triton", "reference")
    )
    assert_same_bits(result, expected)
    images = torch.rand(3, 3, 5, 7, generator=generator(0)).to(memory_format=torch.channels_last)
    settings = {"noise": "uniform", "scale": epsilon if per_sample else 0.02, "seed": 3}
    result, expected = (pgd_start(images, **settings, backend=backend) for backend in ("triton", "reference"))
    assert_same_bits(result, expected)


def test_step_with_gaps_between_elements():
    adversarial, gradient, images = step_arguments((2, 3, 8, 8))
    spread = torch.zeros(2, 3, 8, 16)
    spread[..., ::2] = adversarial
    settings = {"step_size": 0.03, "epsilon": 0.031}
    result = pgd_step(spread[..., ::2], gradient[:1].expand_as(gradient), images, **settings, backend="triton")
    assert_same_bits(
        result, pgd_step(adversarial, gradient[:1].expand_as(gradient), images, **settings, backend="reference")
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("epsilon", (None, 8 / 255, torch.tensor(0.01)))
@pytest.mark.parametrize(
    ("seed", "offset"),
    [(0, 0), (1, 1), (-5, 2**40 + 3), (2**62 + 12345, 7), (torch.tensor(2**40 + 3), torch.tensor(-1))],
)
@pytest.mark.parametrize("noise", ("uniform", "gaussian"))
def test_start_has_the_noise_of_philox(shape, memory_format, epsilon, seed, offset, noise):
    images = torch.rand(shape, generator=generator(0)).to(memory_format=memory_format)
    scale = torch.tensor(0.3) if epsilon is None else 0.02
    settings = {"noise": noise, "scale": scale, "seed": seed, "offset": offset, "epsilon": epsilon}
    result, expected = (pgd_start(images, **settings, backend=backend) for backend in ("triton", "reference"))
    assert result.stride() == images.stride()
    if noise == "uniform":
        assert_same_bits(result, expected)
    else:
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_start_at_the_ends_of_the_generators_range():
    """Noise of a quarter of a million elements: far enough into the tails for every branch of the polynomials."""
    images = torch.full((4, 1, 256, 256), 0.5)
    settings = {"noise": "gaussian", "scale": 0.05, "seed": 3}
    result, expected = (pgd_start(images, **settings, backend=backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(result, expected, atol=2e-7, rtol=0)
    noise = (result - images) / 0.05
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert noise.abs().max() > 4
