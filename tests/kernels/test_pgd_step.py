import math

import pytest
import torch

from dat_kernels import backends, pgd_step
from tests.kernels.inputs import generator, needs
from tests.kernels.steps import EPSILON, LAYOUTS, STEP, assert_same_bits, eager, inputs


@pytest.mark.parametrize("backend", ["native", pytest.param("triton", marks=pytest.mark.gpu)], indirect=True)
def test_the_fastest_backend_serves_by_default(backend, device):
    assert (
        backends.choose("pgd_step", None, *inputs(device=device)).__name__ == f"dat_kernels.pgd_step.{backend}_backend"
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 3, 9, 7), (2, 3, 32, 32), (5, 2, 31, 33), (1, 3, 65, 65)])
def test_equals_the_eager_expression_bit_for_bit(backend, device, shape, poisoned_memory):
    if math.prod(shape) < 40:
        adversarial, gradient, images = (torch.full(shape, v, device=device) for v in (0.5, -1.0, 0.505))
    else:
        adversarial, gradient, images = inputs(shape, device=device)
    result = pgd_step(adversarial, gradient, images, step_size=STEP, epsilon=EPSILON, backend=backend)
    assert_same_bits(result, eager(adversarial, gradient, images))


def test_not_a_number_passes_through_except_in_the_gradient(backend, device):
    adversarial, gradient, images = inputs(device=device)
    adversarial[0, 0, 1, 1] = images[1, 1, 2, 2] = math.nan
    result = pgd_step(adversarial, gradient, images, step_size=STEP, epsilon=EPSILON, backend=backend)
    assert_same_bits(result, eager(adversarial, gradient, images))
    assert result.isnan().sum() == 2


def test_every_instruction_set_equals_the_eager_expression():
    needs("native")
    from dat_kernels import _native

    before = _native.current_instruction_set()
    adversarial, gradient, images = inputs((2, 3, 31, 33))
    active = torch.empty(images.shape, dtype=torch.bool)
    expected_active = torch.empty_like(active)
    arguments = {"step_size": STEP, "epsilon": EPSILON}
    pgd_step(adversarial, gradient, images, active=expected_active, backend="reference", **arguments)
    try:
        for name in _native.instruction_sets():
            _native.use_instruction_set(name)
            result = pgd_step(adversarial, gradient, images, active=active, backend="native", **arguments)
            assert_same_bits(result, eager(adversarial, gradient, images))
            assert torch.equal(active, expected_active), name
    finally:
        _native.use_instruction_set(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image_layout", LAYOUTS)
def test_writes_into_every_output_whatever_its_layout(backend, device, dtype, layout, image_layout, poisoned_memory):
    adversarial, gradient, images = (t.to(memory_format=image_layout) for t in inputs(device=device))
    adversarial[1, 1, 1, 1] = math.nan
    gradient = gradient.to(dtype).to(memory_format=layout)
    expected = eager(adversarial, gradient.float(), images)
    model_input = torch.empty(images.shape, dtype=dtype, device=device).to(memory_format=layout)
    active = torch.empty(images.shape, dtype=torch.bool, device=device).to(memory_format=layout)
    result = pgd_step(
        adversarial, gradient, images, step_size=STEP, epsilon=EPSILON, model_input=model_input, active=active,
        backend=backend,
    )  # fmt: skip
    assert_same_bits(result, expected)
    assert result.is_contiguous(memory_format=image_layout)
    assert_same_bits(model_input, expected.to(dtype))
    returned = pgd_step(
        adversarial, gradient, images, step_size=STEP, epsilon=EPSILON, out=adversarial, backend=backend
    )
    assert returned is adversarial
    assert_same_bits(adversarial, expected)


def test_active_is_the_derivative_of_the_clamps(backend, device):
    adversarial, gradient, images = inputs(device=device)
    # a step that lands on the bound exactly was not cut off
    adversarial[0, 0, 2, 2], gradient[0, 0, 2, 2] = images[0, 0, 2, 2] + EPSILON, 0.0
    active = torch.empty(images.shape, dtype=torch.bool, device=device)
    pgd_step(adversarial, gradient, images, step_size=STEP, epsilon=EPSILON, active=active, backend=backend)
    leaf = images.clone().requires_grad_()
    stepped = adversarial + STEP * gradient.sign()
    torch.clamp(torch.clamp(stepped, leaf - EPSILON, leaf + EPSILON), 0, 1).sum().backward()
    # releases of PyTorch differ in torch.clamp's derivative here: the step's, or half the step's and half the bound's
    landed_exactly = ((stepped == images - EPSILON) | (stepped == images + EPSILON)).detach()
    assert landed_exactly[0, 0, 2, 2] and not active[landed_exactly].any()
    assert torch.equal(active.float()[~landed_exactly], leaf.grad[~landed_exactly])
    assert 0.1 < active.float().mean() < 0.9


def test_gradients_to_adversarial_and_images_are_those_of_the_clamps():
    adversarial, gradient, images = inputs()
    adversarial = adversarial.clamp(1e-3, 1 - 1e-3)  # no step lands on a bound exactly
    weights = torch.randn(images.shape, generator=generator(4))
    grads = []
    for function in (
        lambda a, x: pgd_step(a, gradient, x, step_size=STEP, epsilon=EPSILON),
        lambda a, x: torch.clamp(torch.clamp(a + STEP * gradient.sign(), x - EPSILON, x + EPSILON), 0, 1),
    ):
        leaves = adversarial.clone().requires_grad_(), images.clone().requires_grad_()
        grads.append(torch.autograd.grad((weights * function(*leaves)).sum(), leaves))
    assert torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][1], grads[1][1])


def test_scalars_may_be_tensors(backend, device):
    adversarial, gradient, images = inputs(device=device)
    step, epsilon = torch.tensor(STEP, device=device), torch.tensor(EPSILON, device=device)
    result = pgd_step(adversarial, gradient, images, step_size=step, epsilon=epsilon, backend=backend)
    assert_same_bits(result, eager(adversarial, gradient, images))


def test_native_rounds_to_half_precision_as_pytorch_does():
    """Every float16 in [0, 1], subnormal ones included, the halfway points between neighbours, and what lies beside."""
    needs("native")
    halves = torch.arange(0x3C01, dtype=torch.int16).view(torch.float16).float()  # every float16 in [0, 1]
    middles = (halves[1:] + halves[:-1]) / 2
    tiny = 10 ** torch.linspace(-12, 0, 5000)
    values = torch.cat([halves, middles, middles.nextafter(torch.tensor(2.0)).clamp(max=1), tiny])
    images = values.view(1, 1, 1, -1)
    for dtype in (torch.float16, torch.bfloat16):
        model_input = torch.empty(images.shape, dtype=dtype)
        pgd_step(
            images,
            torch.zeros_like(images),
            images,
            step_size=0.0,
            epsilon=1.0,
            model_input=model_input,
            backend="native",
        )
        assert_same_bits(model_input, images.to(dtype))
        same = pgd_step(
            model_input, torch.zeros_like(model_input), model_input, step_size=0.0, epsilon=1.0, backend="native"
        )
        assert_same_bits(same, model_input)


def test_compiled_without_graph_breaks_writes_in_place(backend, device):
    adversarial, gradient, images = inputs(device=device)
    expected = eager(adversarial, gradient, images)
    model_input = torch.empty_like(images, dtype=torch.bfloat16)
    active = torch.empty_like(images, dtype=torch.bool)

    def step(adversarial, gradient, images, step_size):
        pgd_step(
            adversarial, gradient, images, step_size=step_size, epsilon=EPSILON, out=adversarial,
            model_input=model_input, active=active, backend=backend,
        )  # fmt: skip
        return adversarial + 0

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager" if device.type == "cpu" else "inductor")
    result = compiled(adversarial, gradient, images, torch.tensor(STEP, device=device))
    for written in (result, adversarial):
        assert_same_bits(written, expected)
    assert_same_bits(model_input, expected.bfloat16())


def test_registration_is_consistent():
    adversarial, gradient, images = inputs((1, 2, 5, 5))
    gradient = gradient.nan_to_num()
    scalars = (STEP, None, EPSILON, None)
    torch.library.opcheck(
        torch.ops.dat_kernels.pgd_step.default,
        (adversarial.requires_grad_(), gradient, images.requires_grad_(), *scalars, "reference"),
    )
    outputs = torch.empty_like(images), torch.empty_like(images), torch.empty_like(images, dtype=torch.bool)
    torch.library.opcheck(
        torch.ops.dat_kernels.pgd_step_into.default,
        (adversarial.detach(), gradient, images.detach(), *scalars, *(o.detach() for o in outputs), "reference"),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_batch_of_zero_images():
    empty = torch.empty(0, 3, 8, 8)
    assert pgd_step(empty, empty, empty, step_size=STEP, epsilon=EPSILON).shape == (0, 3, 8, 8)


def test_vmap_joins_the_batch():
    adversarial, gradient, images = (torch.stack([a, b]) for a, b in zip(inputs(seed=1), inputs(seed=2), strict=True))
    mapped = torch.func.vmap(lambda a, g, x: pgd_step(a, g, x, step_size=STEP, epsilon=EPSILON))(
        adversarial, gradient, images
    )
    assert_same_bits(mapped, eager(adversarial, gradient, images))


WRONG = {
    "shape": ({"gradient": torch.zeros(1, 3, 9, 7)}, ValueError, r"gradient has shape \(1, 3, 9, 7\) and images"),
    "integer images": ({"images": torch.zeros(3, 3, 9, 7).byte()}, TypeError, "images has dtype torch.uint8"),
    "dtypes differ": ({"adversarial": torch.zeros(3, 3, 9, 7).double()}, TypeError, "adversarial has dtype .*64"),
    "devices differ": ({"gradient": torch.zeros(3, 3, 9, 7, device="meta")}, ValueError, "gradient is on meta"),
    "negative step": ({"step_size": -0.1}, ValueError, "step_size is -0.1; it must be at least 0"),
    "step not a number": ({"step_size": math.nan}, ValueError, "step_size is nan"),
    "step of text": ({"step_size": "2/255"}, TypeError, "step_size is a str"),
    "step in float64": ({"step_size": torch.tensor(0.1).double()}, TypeError, "step_size has dtype torch.float64; "),
    "negative box": ({"epsilon": -0.1}, ValueError, "epsilon is -0.1; it must be at least 0"),
    "out of another dtype": ({"out": torch.zeros(3, 3, 9, 7).half()}, TypeError, "out has dtype torch.float16"),
    "out of another shape": ({"out": torch.zeros(3, 3, 9, 8)}, ValueError, "out has shape"),
    "integer model_input": ({"model_input": torch.zeros(3, 3, 9, 7).byte()}, TypeError, "model_input has dtype"),
    "float active": ({"active": torch.zeros(3, 3, 9, 7)}, TypeError, "active has dtype torch.float32; .*bool"),
    "unknown backend": ({"backend": "gpu"}, ValueError, "backend 'gpu' is unknown"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_named(changes, error, message):
    adversarial, gradient, images = inputs()
    correct = {
        "adversarial": adversarial, "gradient": gradient, "images": images, "step_size": STEP, "epsilon": EPSILON,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        pgd_step(**(correct | changes))


def test_outputs_cannot_be_differentiated():
    adversarial, gradient, images = inputs()
    with pytest.raises(ValueError, match="cannot be differentiated; detach"):
        pgd_step(
            adversarial.requires_grad_(),
            gradient,
            images,
            step_size=STEP,
            epsilon=EPSILON,
            out=torch.empty_like(images),
        )
