"""`pgd_step` and `pgd_start` with step size, epsilon and scale per sample."""

import math

import pytest
import torch

from dat_kernels import pgd_start, pgd_step
from dat_kernels.pgd_step import philox
from tests.kernels.inputs import generator, needs
from tests.kernels.steps import EPSILON, LAYOUTS, STEP, assert_same_bits, eager, inputs

# one value, a batch of one, several samples in one vector, samples that end inside a vector or a chunk of 1024 values
SHAPES = ((1, 1, 1, 1), (70, 1, 1, 1), (1, 3, 5, 7), (3, 3, 9, 7), (5, 2, 31, 33), (2, 3, 32, 32), (3, 3, 19, 20))


def per_sample(batch, largest, seed=7, device="cpu"):
    return (largest * torch.rand(batch, generator=generator(seed))).to(device)


def settings(batch, kind, device="cpu"):
    """Step size and epsilon, one of them or both per sample, the other one a float or 0-dim."""
    steps, epsilons = per_sample(batch, 2 * STEP, 7, device), per_sample(batch, EPSILON, 8, device)
    if kind == "step size":
        return {"step_size": steps, "epsilon": EPSILON}
    if kind == "epsilon":
        return {"step_size": torch.tensor(STEP, device=device), "epsilon": epsilons}
    return {"step_size": steps, "epsilon": epsilons}


def inputs_of(shape, device):
    if math.prod(shape) >= 40:
        return inputs(shape, device=device)
    return tuple(torch.full(shape, value, device=device) for value in (0.5, -1.0, 0.505))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["step size", "epsilon", "both"])
def test_step_equals_the_eager_expression_bit_for_bit(backend, device, shape, kind, poisoned_memory):
    adversarial, gradient, images = inputs_of(shape, device)
    given = settings(shape[0], kind, device)
    result = pgd_step(adversarial, gradient, images, **given, backend=backend)
    assert_same_bits(result, eager(adversarial, gradient, images, **given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image_layout", LAYOUTS)
def test_step_writes_every_output_whatever_its_layout(backend, device, dtype, layout, image_layout, poisoned_memory):
    adversarial, gradient, images = (t.to(memory_format=image_layout) for t in inputs((3, 3, 19, 20), device=device))
    adversarial[1, 1, 1, 1] = math.nan
    before = adversarial.clone()
    gradient = gradient.to(dtype).to(memory_format=layout)
    given = settings(3, "both", device)
    expected = eager(adversarial, gradient.float(), images, **given)
    model_input = torch.empty(images.shape, dtype=dtype, device=device).to(memory_format=layout)
    active = torch.empty(images.shape, dtype=torch.bool, device=device).to(memory_format=layout)
    result = pgd_step(
        adversarial, gradient, images, **given, out=adversarial, model_input=model_input, active=active,
        backend=backend,
    )  # fmt: skip
    assert result is adversarial
    assert_same_bits(result, expected)
    assert_same_bits(model_input, expected.to(dtype))
    assert 0.1 < active.float().mean() < 0.9
    for b, (step_size, epsilon) in enumerate(zip(*map(torch.Tensor.tolist, given.values()), strict=True)):
        alone, part = torch.empty(1, 3, 19, 20, dtype=torch.bool, device=device), slice(b, b + 1)
        pgd_step(before[part], gradient[part], images[part], step_size=step_size, epsilon=epsilon, active=alone)
        assert torch.equal(active[part], alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_images_get_the_float32_result_rounded_once(backend, device, dtype):
    adversarial, gradient, images = (t.to(dtype) for t in inputs(device=device))
    given = settings(3, "both", device)
    result = pgd_step(adversarial, gradient, images, **given, backend=backend)
    assert_same_bits(result, eager(adversarial.float(), gradient.float(), images.float(), **given).to(dtype))


def test_every_instruction_set_equals_the_eager_expression():
    needs("native")
    from dat_kernels import _native

    before = _native.current_instruction_set()
    adversarial, gradient, images = inputs((3, 3, 31, 33))
    given = settings(3, "both")
    start = {"noise": "uniform", "seed": 3, "scale": given["step_size"], "epsilon": given["epsilon"]}
    started = pgd_start(images, **start, backend="reference")
    try:
        for name in _native.instruction_sets():
            _native.use_instruction_set(name)
            result = pgd_step(adversarial, gradient, images, **given, backend="native")
            assert_same_bits(result, eager(adversarial, gradient, images, **given))
            assert_same_bits(pgd_start(images, **start, backend="native"), started)
    finally:
        _native.use_instruction_set(before)


@pytest.mark.parametrize("shape", [*SHAPES, (5, 3, 3, 7)])  # 63 values: every group of 64 crosses into another sample
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["scale", "epsilon", "both"])
def test_start_equals_the_eager_expression_bit_for_bit(backend, device, shape, layout, kind, poisoned_memory):
    images = torch.rand(shape, generator=generator(1)).to(device, memory_format=layout)
    scales, epsilons = per_sample(shape[0], 0.2, 5, device), per_sample(shape[0], 0.1, 6, device)
    scale = 0.15 if kind == "epsilon" else scales
    epsilon = None if kind == "scale" else epsilons
    noise = philox.uniform(images.numel(), 3, 1, device).view(shape)
    widths = 0.15 if kind == "epsilon" else scales[:, None, None, None]
    expected = images + widths * noise
    if epsilon is not None:
        bound = epsilons[:, None, None, None]
        expected = torch.min(torch.max(expected, images - bound), images + bound)
    result = pgd_start(images, noise="uniform", scale=scale, epsilon=epsilon, seed=3, offset=1, backend=backend)
    assert_same_bits(result, expected.clamp(0, 1))


def test_gaussian_start_of_a_sample_is_that_of_its_own_scale(backend, device):
    images = torch.rand(3, 3, 9, 7, generator=generator(1)).to(device)
    scales, epsilons = torch.tensor([0.0, 0.1, 0.3], device=device), torch.tensor([0.2, 0.05, 0.0], device=device)
    given = {"noise": "gaussian", "seed": 3, "backend": backend}
    whole = pgd_start(images, scale=scales, epsilon=epsilons, **given)
    for b, (scale, epsilon) in enumerate(zip(scales.tolist(), epsilons.tolist(), strict=True)):
        assert_same_bits(whole[b], pgd_start(images, scale=scale, epsilon=epsilon, **given)[b])


@pytest.mark.parametrize("epsilon", [0.0, torch.tensor(0.0), torch.zeros(3)], ids=["float", "0-dim", "per sample"])
def test_a_box_of_no_width_is_the_image(backend, device, epsilon, poisoned_memory):
    """Where a ramp of epsilon begins."""
    epsilon = epsilon.to(device) if isinstance(epsilon, torch.Tensor) else epsilon
    adversarial, gradient, images = inputs(device=device)
    result = pgd_step(adversarial, gradient, images, step_size=STEP, epsilon=epsilon, backend=backend)
    assert_same_bits(result, images)
    start = pgd_start(images, noise="gaussian", scale=0.1, epsilon=epsilon, seed=1, backend=backend)
    assert_same_bits(start, images)
    assert_same_bits(pgd_start(images, noise="uniform", scale=epsilon, seed=1, backend=backend), images)


def test_values_may_lie_apart_in_memory(backend, device):
    adversarial, gradient, images = inputs(device=device)
    steps, epsilons = per_sample(6, STEP, device=device)[::2], torch.tensor(EPSILON, device=device).expand(3)
    result = pgd_step(adversarial, gradient, images, step_size=steps, epsilon=epsilons, backend=backend)
    assert_same_bits(result, eager(adversarial, gradient, images, steps, EPSILON))
    start = pgd_start(images, noise="uniform", scale=steps, epsilon=epsilons, seed=1, backend=backend)
    expected = pgd_start(images, noise="uniform", scale=steps.clone(), epsilon=EPSILON, seed=1, backend="reference")
    assert_same_bits(start, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_follow_the_bounds_of_each_sample(dtype):
    adversarial, gradient, images = (t.to(dtype) for t in inputs((3, 3, 19, 20)))
    given = settings(3, "both")
    weights = torch.randn(images.shape, generator=generator(4)).to(dtype)
    leaves = adversarial.clone().requires_grad_(), images.clone().requires_grad_()
    (weights * pgd_step(leaves[0], gradient, leaves[1], **given)).sum().backward()
    active = torch.empty(images.shape, dtype=torch.bool)
    pgd_step(adversarial, gradient, images, **given, active=active)
    assert torch.equal(leaves[1].grad, weights * active)
    steps, epsilons = (value[:, None, None, None] for value in given.values())
    x = images.float()
    stepped = adversarial.float() + steps * gradient.float().sign()
    stays = (stepped >= x - epsilons) & (stepped <= x + epsilons) & (stepped >= 0) & (stepped <= 1)
    assert torch.equal(leaves[0].grad, weights * stays) and stays.any()


def test_one_float_for_all_differentiates_half_precision_in_float32():
    """The bounds are compared as the result was computed, not after rounding them to the images' dtype."""
    adversarial, gradient, images = (t.bfloat16() for t in inputs((3, 3, 19, 20)))
    active = torch.empty(images.shape, dtype=torch.bool)
    pgd_step(adversarial, gradient, images, step_size=STEP, epsilon=EPSILON, active=active)
    leaf = images.clone().requires_grad_()
    pgd_step(adversarial, gradient, leaf, step_size=STEP, epsilon=EPSILON).sum().backward()
    assert torch.equal(leaf.grad.bool(), active)


def test_compiled_without_graph_breaks():
    _, gradient, images = inputs()

    def attack(images, steps, epsilons):
        start = pgd_start(images, noise="uniform", scale=epsilons, epsilon=epsilons, seed=1)
        return pgd_step(start, gradient, images, step_size=steps, epsilon=epsilons)

    torch._dynamo.reset()
    compiled = torch.compile(attack, fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        steps, epsilons = per_sample(3, STEP, seed), per_sample(3, EPSILON, seed + 5)
        assert_same_bits(compiled(images, steps, epsilons), attack(images, steps, epsilons))


def test_registration_is_consistent():
    adversarial, gradient, images = inputs((2, 2, 5, 5))
    steps, epsilons = per_sample(2, STEP), per_sample(2, EPSILON)
    numbers = (0.0, steps, 0.0, epsilons)
    torch.library.opcheck(
        torch.ops.dat_kernels.pgd_step.default,
        (adversarial.requires_grad_(), gradient.nan_to_num(), images.requires_grad_(), *numbers, "reference"),
    )
    outputs = torch.empty_like(images), torch.empty_like(images), torch.empty_like(images, dtype=torch.bool)
    torch.library.opcheck(
        torch.ops.dat_kernels.pgd_step_into.default,
        (adversarial.detach(), gradient.nan_to_num(), images.detach(), *numbers, *map(torch.detach, outputs), None),
        test_utils=("test_schema", "test_faketensor"),
    )
    torch.library.opcheck(
        torch.ops.dat_kernels.pgd_start.default,
        (images.detach(), "uniform", 0.0, steps, 0.0, epsilons, 3, None, 0, None, "reference"),
    )


def test_vmap_takes_one_value_per_call_and_one_per_sample():
    adversarial, gradient, images = inputs()
    calls, samples = per_sample(4, EPSILON), per_sample(12, EPSILON).view(4, 3)

    def step(epsilon, image):
        return pgd_step(adversarial, gradient, image, step_size=STEP, epsilon=epsilon)

    for given, dims in ((calls, (0, None)), (samples, (0, None)), (samples.T, (1, None))):
        mapped = torch.func.vmap(step, in_dims=dims)(given, images)
        by_call = given if dims[0] == 0 else given.T
        assert_same_bits(mapped, torch.stack([step(epsilon, images) for epsilon in by_call]))
    both = torch.stack([images, images.flip(-1)], dim=2)
    mapped = torch.func.vmap(step, in_dims=(0, 2))(calls[:2], both)
    assert_same_bits(mapped, torch.stack([step(calls[0], images), step(calls[1], images.flip(-1))]))


def test_batch_of_zero_images():
    empty, none = torch.empty(0, 3, 8, 8), torch.empty(0)
    assert pgd_step(empty, empty, empty, step_size=none, epsilon=none).shape == (0, 3, 8, 8)
    assert pgd_start(empty, noise="uniform", scale=none, epsilon=none, seed=1).shape == (0, 3, 8, 8)


WRONG = {
    "too many": (
        torch.ones(4),
        ValueError,
        r"NAME has shape \(4,\); give a float, .* one of shape \(3,\), one per sam",
    ),
    "one for three": (torch.ones(1), ValueError, r"NAME has shape \(1,\)"),
    "two dimensions": (torch.ones(3, 1), ValueError, r"NAME has shape \(3, 1\)"),
    "float64": (torch.ones(3).double(), TypeError, "NAME has dtype torch.float64; it must be torch.float32"),
    "elsewhere": (torch.ones(3, device="meta"), ValueError, "NAME is on meta and images on cpu"),
    "negative": (torch.tensor([0.1, -0.5, 0.1]), ValueError, "the lowest value of NAME is -0.5; .* at least 0"),
    "not a number": (torch.tensor([0.1, math.nan, 0.1]), ValueError, "the lowest value of NAME is nan"),
    "negative, 0-dim": (torch.tensor(-0.5), ValueError, "the lowest value of NAME is -0.5"),
}


@pytest.mark.parametrize("name", ["step_size", "epsilon", "scale", "epsilon of the start"])
@pytest.mark.parametrize(("value", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_named(name, value, error, message):
    adversarial, gradient, images = inputs()
    with pytest.raises(error, match=message.replace("NAME", name.removesuffix(" of the start"))):
        if name in ("step_size", "epsilon"):
            pgd_step(adversarial, gradient, images, **({"step_size": STEP, "epsilon": EPSILON} | {name: value}))
        else:
            given = {"scale": 0.1, "epsilon": 0.1} | {name.removesuffix(" of the start"): value}
            pgd_start(images, noise="uniform", seed=1, **given)
