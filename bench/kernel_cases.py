"""What the kernels' benchmarks run: inputs, subjects and the check that a subject passes before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench import formulations
from bench.amplitude_mix_precision import photographs
from dat_kernels import amplitude_mix, augment, available_backends, pgd_start, pgd_step
from dat_kernels.amplitude_mix import reference as mix_reference
from dat_kernels.pgd_step import reference as step_reference

Formula = Callable[..., Tensor]
Task = Callable[[], Tensor]

CHANNELS = 3
EPSILON, STEP_SIZE, START_SCALE = 8 / 255, 2 / 255, 0.001
COMPILED = "torch.compile"
CHANNELS_LAST = ", channels_last"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One operation on given inputs."""

    inputs: tuple[Tensor, ...]
    eager: dict[str, Formula]
    """Formulations in eager PyTorch by name; the first is the one that others are compared with."""
    compilable: Formula
    kernel: Callable[[str], Formula]
    """A backend's name -> the operation on that backend."""
    fault: Callable[[str, Tensor], str | None]
    """What is wrong with a subject's result; None where nothing is. NaN is wrong."""
    run: Callable[..., Tensor] = lambda formula, *inputs: formula(*inputs)

    def task(self, subject: str) -> Task:
        """The call to be timed. `subject`: a key of `eager`, `COMPILED`, or a backend's name with or without
        `CHANNELS_LAST`, which gives the first input that memory format."""
        first, *others = self.inputs
        name = subject.removesuffix(CHANNELS_LAST)
        if name != subject:
            first = first.to(memory_format=torch.channels_last)
        if name in self.eager:
            formula = self.eager[name]
        elif name == COMPILED:
            # compiled code is dropped between cases, or the ninth size would run eagerly for want of cache entries
            torch.compiler.reset()
            formula = torch.compile(self.compilable, fullgraph=True, dynamic=False)
        else:
            formula = self.kernel(name)
        return partial(self.run, formula, first, *others)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One operation at one shape, batch x 3 x size x size. Images are float32."""

    operation: str
    batch: int
    size: int
    bytes_per_value: int
    """Least memory traffic per value of the images: every input read once, every output written once."""
    build: Callable[[int, int, torch.device], Problem]
    eager: tuple[str, ...] = ("eager",)
    layouts: tuple[str, ...] = ("",)
    compiled_on_cpu: bool = False
    """torch.compile takes 5 to 20 seconds a case there; on CUDA every case is compiled."""
    cuda_only: bool = False

    @property
    def shape(self) -> str:
        return f"{self.batch}x{CHANNELS}x{self.size}x{self.size}"

    @property
    def title(self) -> str:
        return f"{self.operation} {self.shape}"

    @property
    def bytes_moved(self) -> int:
        return self.bytes_per_value * self.batch * CHANNELS * self.size * self.size

    def subjects(self, device: torch.device) -> tuple[str, ...]:
        compiled = (COMPILED,) if self.compiled_on_cpu or device.type == "cuda" else ()
        kernels = [
            name + layout
            for name in available_backends()
            if _runs_on(name, device)
            for layout in (self.layouts if name != "reference" else ("",))
        ]
        return (*self.eager, *compiled, *kernels)

    def problem(self, device: torch.device) -> Problem:
        return self.build(self.batch, self.size, device)


def _runs_on(backend: str, device: torch.device) -> bool:
    """Triton's interpreter, which serves CPU tensors, is no subject."""
    return backend == "reference" or backend == {"cpu": "native", "cuda": "triton"}[device.type]


def mix(batch: int, size: int, device: torch.device) -> Problem:
    images, amplitude, lam = _mix_inputs(batch, size, device)
    exact = mix_reference.forward(images.double(), amplitude.double(), lam.double(), None, None)
    return Problem(
        inputs=(images, amplitude, lam),
        eager={
            "eager, complex128": formulations.mix_with_angles,
            "eager, rfft2": formulations.mix_with_half_spectrum,
        },
        compilable=formulations.mix_with_half_spectrum,
        kernel=lambda backend: partial(amplitude_mix, backend=backend),
        fault=_at_most_twice(formulations.mix_with_half_spectrum(images, amplitude, lam), exact),
    )


def mix_with_gradient(batch: int, size: int, device: torch.device) -> Problem:
    images, amplitude, lam = _mix_inputs(batch, size, device)
    upstream = torch.randn(images.shape, generator=_generator(1)).to(device)

    def differentiate(formula: Formula, images: Tensor, amplitude: Tensor, lam: Tensor, grad: Tensor) -> Tensor:
        wanted = amplitude.detach().requires_grad_()
        return torch.autograd.grad(formula(images, wanted, lam), wanted, grad)[0]

    forward = mix(batch, size, device)
    inputs = (images, amplitude, lam, upstream)
    exact = mix_reference.backward_amplitude(
        upstream.double(), images.double(), amplitude.double(), lam.double(), None, None
    )
    return Problem(
        inputs=inputs,
        eager=forward.eager,
        compilable=forward.compilable,
        kernel=forward.kernel,
        fault=_at_most_twice(differentiate(formulations.mix_with_half_spectrum, *inputs), exact),
        run=differentiate,
    )


def step(batch: int, size: int, device: torch.device) -> Problem:
    return _step_problem(batch, size, device, STEP_SIZE, EPSILON)


def step_per_sample(batch: int, size: int, device: torch.device) -> Problem:
    ramp = torch.linspace(0, 1, batch, device=device)
    return _step_problem(batch, size, device, STEP_SIZE * ramp, EPSILON * ramp.flip(0))


def _step_problem(
    batch: int, size: int, device: torch.device, step_size: float | Tensor, epsilon: float | Tensor
) -> Problem:
    steps, epsilons = (v.view(-1, 1, 1, 1) if isinstance(v, Tensor) else v for v in (step_size, epsilon))
    images = _images(batch, size, 0).to(device)
    adversarial = (images + 0.02 * torch.randn(images.shape, generator=_generator(1)).to(device)).clamp(0, 1)
    gradient = torch.randn(images.shape, generator=_generator(2)).to(device)
    eager = partial(formulations.step_in_box, step_size=steps, epsilon=epsilons)
    expected, out = eager(adversarial, gradient, images), torch.empty_like(images)
    exact = eager(adversarial.double(), gradient.double(), images.double())
    buffers = torch.empty_like(images), torch.empty_like(images)
    with_buffers = partial(formulations.step_in_box_with_buffers, buffers=buffers, step_size=steps, epsilon=epsilons)

    def fault(subject: str, result: Tensor) -> str | None:
        if not (result - exact).abs().max() <= 2e-7:
            return f"differs from float64 by {(result - exact).abs().max():.1e}; rounding allows 2e-7"
        # a compiler may contract a * b + c; the kernels may not
        if subject != COMPILED and not torch.equal(result, expected):
            return "differs from eager PyTorch in bits"
        return None

    return Problem(
        inputs=(adversarial, gradient, images),
        eager={"eager": eager, "eager, buffers kept": with_buffers},
        compilable=eager,
        kernel=lambda backend: partial(pgd_step, step_size=step_size, epsilon=epsilon, out=out, backend=backend),
        fault=fault,
    )


def start(batch: int, size: int, device: torch.device) -> Problem:
    images = _images(batch, size, 0).to(device)
    exact = torch.empty_like(images, dtype=torch.float64)
    step_reference.start(images.double(), "gaussian", START_SCALE, None, 1, 0, exact)
    eager = partial(formulations.gaussian_start, scale=START_SCALE)
    inside = (images > 0.1) & (images < 0.9)

    def fault(subject: str, result: Tensor) -> str | None:
        if subject in available_backends():
            error = (result - exact).abs().max()
            return None if error <= 2e-7 else f"differs from Philox in float64 by {error:.1e}; 2e-7 is allowed"
        spread = (result - images)[inside].std() / START_SCALE
        return None if 0.97 < spread < 1.03 else f"the noise's standard deviation is {spread:.3f} of what was asked"

    return Problem(
        inputs=(images,),
        eager={"eager": eager},
        compilable=eager,
        kernel=lambda backend: partial(pgd_start, noise="gaussian", scale=START_SCALE, seed=1, backend=backend),
        fault=fault,
    )


def gather(batch: int, size: int, device: torch.device) -> Problem:
    stored = 1000
    dataset = torch.randint(0, 256, (stored, CHANNELS, size, size), dtype=torch.uint8, generator=_generator(0))
    indices = torch.randint(0, stored, (batch,), generator=_generator(1))
    offsets = torch.randint(-4, 5, (batch, 2), generator=_generator(2))
    flip = torch.rand(batch, generator=_generator(3)) < 0.5
    expected = formulations.crop_and_flip_each(dataset, indices, offsets, flip).to(device)
    return Problem(
        inputs=(dataset.to(device), indices.to(device), offsets.to(device), flip.to(device)),
        eager={"eager": formulations.crop_and_flip_each, "eager, no loop": formulations.crop_and_flip_batch},
        compilable=formulations.crop_and_flip_batch,
        kernel=lambda backend: (
            lambda data, chosen, crop, flips: augment(data, chosen, crop_offsets=crop, flip=flips, backend=backend)
        ),
        # compiled code may multiply by a rounded 1/255
        fault=lambda subject, result: (
            None
            if (result - expected).abs().max() <= (1e-7 if subject == COMPILED else 0)
            else "differs from the crops one by one"
        ),
    )


def _mix_inputs(batch: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    amplitude = torch.fft.fft2(_images(batch, size, 7)).abs()
    return (
        _images(batch, size, 0).to(device),
        amplitude.to(device),
        torch.rand(batch, generator=_generator(9)).to(device),
    )


def _images(batch: int, size: int, seed: int) -> Tensor:
    """8-bit photographs' spectra: white noise would hide a lossy transform."""
    planes = photographs(min(batch, 128) * CHANNELS, size, _generator(seed)).view(-1, CHANNELS, size, size)
    return planes.repeat(-(-batch // planes.shape[0]), 1, 1, 1)[:batch].contiguous()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _at_most_twice(eager: Tensor, exact: Tensor) -> Callable[[str, Tensor], str | None]:
    """The check that planes' worst errors against float64 are at most twice those of eager float32.

    Compared at the median plane and at the ninth decile: one frequency near 0 makes a plane's error arbitrary, in eager
    PyTorch as much as in a kernel, so the largest error of all planes is a draw of luck. For the same reason one plane
    in 200 may be off by more than a thousandth of the largest value; a sample of a batch of 128 is more than that.
    """
    quantiles = torch.tensor([0.5, 0.9, 0.995], dtype=torch.float64)
    scale = exact.abs().max().item()

    def errors(result: Tensor) -> Tensor:
        return (result.double() - exact).abs().flatten(2).amax(2).flatten().cpu().quantile(quantiles)

    allowed = 2 * (errors(eager) + torch.finfo(eager.dtype).eps * scale)
    allowed[2] = 1e-3 * scale

    def fault(subject: str, result: Tensor) -> str | None:
        found = errors(result)
        if (found <= allowed).all():
            return None
        return (
            f"planes' worst errors against float64 are {found.tolist()} at the quantiles {quantiles.tolist()}; "
            f"{allowed.tolist()} are allowed, the first two being twice those of eager float32"
        )

    return fault


_BOTH_MIXES = ("eager, complex128", "eager, rfft2")
_mix = partial(Case, operation="amplitude_mix", build=mix, eager=_BOTH_MIXES, bytes_per_value=12)
# forward 12 bytes, backward 16: gradient, image and amplitude in, gradient out
_gradient = partial(
    Case, operation="amplitude_mix + gradient", build=mix_with_gradient, eager=_BOTH_MIXES, bytes_per_value=28
)
_step = partial(Case, operation="pgd_step", build=step, eager=("eager", "eager, buffers kept"), bytes_per_value=16)
_each = partial(
    Case, operation="pgd_step per sample", build=step_per_sample, eager=("eager", "eager, buffers kept"),
    bytes_per_value=16,
)  # fmt: skip
_start = partial(Case, operation="pgd_start", build=start, bytes_per_value=8)
_gather = partial(Case, operation="augment", build=gather, eager=("eager", "eager, no loop"), bytes_per_value=5)

CASES = (
    _mix(batch=128, size=16, layouts=("", CHANNELS_LAST)),
    _mix(batch=128, size=32, layouts=("", CHANNELS_LAST), compiled_on_cpu=True),
    _mix(batch=128, size=64, layouts=("", CHANNELS_LAST)),
    _mix(batch=128, size=33, layouts=("", CHANNELS_LAST)),
    _mix(batch=16, size=224),
    _gradient(batch=128, size=16),
    _gradient(batch=128, size=32, compiled_on_cpu=True),
    _gradient(batch=128, size=64),
    _gradient(batch=128, size=33),
    _gradient(batch=16, size=224),
    _step(batch=128, size=32, compiled_on_cpu=True),
    # out of the CPU's cache; without buffers eager PyTorch would pay for fresh pages first of all
    _step(batch=64, size=224, eager=("eager, buffers kept",)),
    _each(batch=128, size=32),
    _start(batch=128, size=32, compiled_on_cpu=True),
    _gather(batch=128, size=32, compiled_on_cpu=True),
    _gather(batch=128, size=64),
    # large enough to leave a GPU's cache
    _mix(batch=8192, size=32, cuda_only=True),
    _gradient(batch=8192, size=32, cuda_only=True),
    _step(batch=87381, size=32, cuda_only=True),
    _each(batch=87381, size=32, cuda_only=True),
)
