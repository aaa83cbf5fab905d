"""pgd_step, pgd_start and augment on the GPU, bit for bit; and every kernel under torch.compile(fullgraph=True)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.gpu_acceptance.inputs import make_images
from bench.gpu_acceptance.kernel_backend import backend_of, poisoned_memory, require_triton_by_default, same_bits
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat_kernels import amplitude_mix, augment, pgd_start, pgd_step

EPSILON, STEP_SIZE = 8 / 255, 2 / 255
GAUSSIAN_ERROR = 4e-6
"""Of unit noise: float32's sine, cosine and logarithm on two devices."""
SHAPES = ((128, 3, 32, 32), (5, 2, 31, 33), (3, 1, 1, 7))
REHEARSED = (torch.float32, torch.float16)  # Triton's interpreter does not round to bfloat16, it cuts off
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def run(setting: Setting, record: Recorder) -> None:
    shapes = setting.pick(SHAPES, ((2, 3, 4, 5),))
    dtypes = setting.pick((torch.float32, torch.bfloat16, torch.float16), REHEARSED)
    for shape, dtype, layout in itertools.product(shapes, dtypes, LAYOUTS):
        name = f"pgd_step: {str(dtype).removeprefix('torch.')}, {'x'.join(map(str, shape))}, {layout}"
        if setting.in_time(record, name, seconds=2.0):
            with record.gate(name):
                check_step(shape, dtype, LAYOUTS[layout], setting)
    for noise in ("uniform", "gaussian"):
        with record.gate(f"pgd_start: {noise}, by seed and offset alone") as notes:
            notes.text = check_start(noise, shapes[0], setting)
    for dtype, layout in itertools.product(dtypes, LAYOUTS):
        with record.gate(f"augment: {str(dtype).removeprefix('torch.')}, {layout}"):
            check_augment(dtype, LAYOUTS[layout], setting)
    for name, function, arguments in compiled_cases(setting):
        gate = f"{name}: under torch.compile(fullgraph=True)"
        if setting.in_time(record, gate):
            with record.gate(gate):
                check_compiled(function, arguments)


def eager_step(
    adversarial: Tensor,
    gradient: Tensor,
    images: Tensor,
    step_size: float | Tensor = STEP_SIZE,
    epsilon: float | Tensor = EPSILON,
) -> Tensor:
    """The expression itself, in float32 at least. Step size and epsilon: a number or [B, 1, 1, 1]."""
    wide = torch.promote_types(images.dtype, torch.float32)
    x = images.to(wide)
    stepped = adversarial.to(wide) + step_size * gradient.sign().to(wide)
    return torch.clamp(torch.min(torch.max(stepped, x - epsilon), x + epsilon), 0, 1).to(images.dtype)


def check_step(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format, setting: Setting
) -> None:
    """Out of place, in place, both extra outputs, scalars on the device or per sample, a gradient of another kind."""
    backend, device = backend_of("pgd_step", setting), setting.device
    adversarial, gradient, images = step_inputs(shape, dtype, memory_format, device)
    expected = eager_step(adversarial, gradient, images)
    on_device: dict[str, Any] = {
        "step_size": torch.tensor(STEP_SIZE, device=device),
        "epsilon": torch.tensor(EPSILON, device=device),
    }
    on_host: dict[str, Any] = {"step_size": STEP_SIZE, "epsilon": EPSILON}
    ramp = torch.linspace(0, 1, shape[0], device=device)
    steps, epsilons = 2 * STEP_SIZE * ramp, EPSILON * ramp.flip(0)
    over_pixels = steps[:, None, None, None], epsilons[:, None, None, None]
    with poisoned_memory():
        for direction in (gradient, gradient.contiguous(memory_format=torch.channels_last), gradient.contiguous()):
            result = pgd_step(adversarial, direction, images, step_size=steps, epsilon=epsilons, backend=backend)
            require(same_bits(result, eager_step(adversarial, gradient, images, *over_pixels)), "per sample")
        for scalars in (on_host, on_device):
            result = pgd_step(adversarial, gradient, images, **scalars, backend=backend)
            require(same_bits(result, expected), f"out of place, {'host' if scalars is on_host else 'device'} scalars")
        # the attack's own call: gradient in the compute dtype and channels_last, in place, next input and mask written too
        narrow = setting.pick(torch.bfloat16, torch.float16)
        model_input = torch.full_like(images, math.nan, dtype=narrow, memory_format=torch.channels_last)
        active = torch.ones_like(images, dtype=torch.bool)
        low = gradient.to(narrow).contiguous(memory_format=torch.channels_last)
        expected_low, in_place = eager_step(adversarial, low, images), adversarial.clone()
        pgd_step(
            in_place, low, images, **on_host, out=in_place, model_input=model_input, active=active, backend=backend
        )
    require(same_bits(in_place, expected_low), "in place, gradient in the compute dtype")
    # the input is rounded from what the kernel computed, not from what a narrower `out` kept of it
    if dtype == torch.float32:
        require(same_bits(model_input, expected_low.to(narrow)), "model_input")
    expected_active = torch.empty_like(active)
    pgd_step(adversarial, low, images, **on_host, active=expected_active, backend="reference")
    require(torch.equal(active, expected_active), "active")
    require_triton_by_default("pgd_step", images, adversarial, gradient)


def step_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Images in [0, 1], adversarial ones that often lie outside the box, a gradient with zeros and a NaN."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(shape, generator=generator)
    images.view(-1)[:4] = torch.tensor([0.0, 1.0, EPSILON, 1 - EPSILON])
    adversarial = (images + 0.08 * (torch.rand(shape, generator=generator) - 0.5)).clamp(0, 1)
    gradient = torch.randn(shape, generator=generator)
    gradient.view(-1)[3::7] = 0.0
    gradient.view(-1)[4] = math.nan
    moved = (tensor.to(device, dtype).contiguous(memory_format=memory_format) for tensor in (adversarial, images))
    first, second = moved
    return first, gradient.to(device, dtype).contiguous(memory_format=memory_format), second


def check_start(noise: str, shape: tuple[int, ...], setting: Setting) -> str:
    backend, device = backend_of("pgd_step", setting), setting.device
    images = make_images("random", shape, seed=3).mul(0.5).add(0.25).to(device)

    def start(
        given: Tensor = images,
        seed: int | Tensor = 11,
        offset: int | Tensor = 2,
        to: str = backend,
        scale: float | Tensor = 0.1,
    ) -> Tensor:
        return pgd_start(given, noise=noise, scale=scale, seed=seed, offset=offset, backend=to)

    with poisoned_memory():
        first, again = start(), start()
        last = start(images.contiguous(memory_format=torch.channels_last))
        by_tensors = start(seed=torch.tensor(11, device=device), offset=torch.tensor(2, device=device))
        part = start(images[:1].clone())
        scales = torch.linspace(0, 0.2, shape[0], device=device)
        by_sample = start(scale=scales)
        of_last = start(scale=scales[-1])
    require(same_bits(first, again), "differs between two calls")
    require(same_bits(first, last), "depends on the memory format")
    require(same_bits(first, by_tensors), "depends on whether the seed is on the device")
    require(same_bits(first[:1], part), "depends on the size of the batch, so on the launch grid")
    require(same_bits(by_sample[0], images[0]), "a scale of 0 in a batch of many moves its image")
    require(same_bits(by_sample[-1], of_last[-1]), "the last sample's scale is not its own")
    require(not torch.equal(first, start(seed=12)), "does not depend on the seed")
    require(not torch.equal(first, start(offset=3)), "does not depend on the offset")
    reference = start(to="reference")
    if noise == "uniform":
        require(same_bits(first, reference), "is not Philox's uniform value bit for bit")
        return "bit for bit"
    error = float((first - reference).abs().max())
    require(error <= 0.1 * GAUSSIAN_ERROR + 1e-7, f"error {error:.1e} against Philox and Box-Muller in float64")
    return f"error {error:.1e}"


def check_augment(dtype: torch.dtype, memory_format: torch.memory_format, setting: Setting) -> None:
    backend, device = backend_of("augment", setting), setting.device
    for shape in setting.pick(((256, 3, 32, 32), (64, 1, 17, 9)), ((6, 3, 5, 4),)):
        generator = torch.Generator().manual_seed(0)
        dataset = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        batch = setting.pick(128, 4)
        indices = torch.randint(0, shape[0], (batch,), generator=generator)
        offsets = torch.randint(-4, 5, (batch, 2), generator=generator, dtype=torch.int32)
        flip = torch.rand(batch, generator=generator) < 0.5
        for crop, turned in ((None, None), (offsets, flip), (offsets.long(), None), (40 * offsets, flip)):
            options: dict[str, Any] = {"dtype": dtype, "memory_format": memory_format}
            expected = augment(dataset, indices, crop_offsets=crop, flip=turned, backend="reference", **options)
            moved = [None if value is None else value.to(device) for value in (crop, turned)]
            with poisoned_memory():
                found = augment(
                    dataset.to(device),
                    indices.to(device),
                    crop_offsets=moved[0],
                    flip=moved[1],
                    backend=backend,
                    **options,
                )
            require(same_bits(found.cpu(), expected), f"differs from the reference on the CPU at {shape}")
            require(found.is_contiguous(memory_format=memory_format), "has another memory format than asked for")
        require_triton_by_default("augment", dataset.to(device), indices.to(device), found)


def compiled_cases(setting: Setting) -> list[tuple[str, Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Each kernel as a function of tensors; the mix with its gradient."""
    device, shape = setting.device, setting.pick((16, 3, 32, 32), (1, 1, 16, 16))
    images = make_images("one_over_f", shape).to(device)
    generator = torch.Generator().manual_seed(0)
    amplitude, noise = (torch.rand(shape, generator=generator).to(device) for _ in range(2))
    lam = torch.rand(shape[0], generator=generator).to(device)
    indices = torch.arange(shape[0], device=device)
    dataset = images.mul(255).to(torch.uint8)

    def mix(images: Tensor, amplitude: Tensor, lam: Tensor) -> Tensor:
        return amplitude_mix(images, amplitude, lam).square().sum()

    def step(images: Tensor, gradient: Tensor) -> Tensor:
        return pgd_step(images, gradient, images, step_size=STEP_SIZE, epsilon=EPSILON)

    def step_into(images: Tensor, gradient: Tensor) -> Tensor:
        out = torch.empty_like(images)
        return pgd_step(images, gradient, images, step_size=STEP_SIZE, epsilon=EPSILON, out=out)

    def start(images: Tensor) -> Tensor:
        return pgd_start(images, noise="uniform", scale=EPSILON, seed=1)

    return [
        ("amplitude_mix", mix, (images, amplitude.requires_grad_(), lam)),
        ("pgd_step", step, (images, noise - 0.5)),
        ("pgd_step into a tensor", step_into, (images, noise - 0.5)),
        ("pgd_start", start, (images,)),
        ("augment", lambda dataset, indices: augment(dataset, indices), (dataset, indices)),
    ]


def check_compiled(function: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> None:
    torch._dynamo.reset()
    expected, found = function(*arguments), torch.compile(function, fullgraph=True, dynamic=False)(*arguments)
    if found.requires_grad:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        gradient, expected = (torch.autograd.grad(value, arguments[1])[0] for value in (found, expected))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    else:
        require(same_bits(found, expected), "gives other bits than the uncompiled call")
