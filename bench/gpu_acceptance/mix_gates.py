"""amplitude_mix on the GPU against float64: every size, dtype, layout and launch variant that the backend has.

The rule: the worst error of a plane is at most twice that of eager PyTorch in the same dtype, at the median plane and at the
ninth decile. One frequency with |X| near 0 makes the error of a whole plane arbitrary, for eager PyTorch as much as for a
kernel, so the very worst plane is a draw of luck. Flat and black images have exact zeros in their spectra: at the sizes whose
transform is the kernel's own they have an absolute bound too; at others it is cuFFT's, which promises no zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.gpu_acceptance.inputs import make_images
from bench.gpu_acceptance.kernel_backend import (
    backend_of,
    module_of,
    poisoned_memory,
    require_triton_by_default,
    same_bits,
)
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat_kernels import amplitude_mix

OWN_SIZES = (32, 16, 64)
EXACT_BOUND = 1e-5
"""On flat and black images, float32: some ten last bits of 1, far below what a wrong phase costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One kind of call."""

    height: int
    width: int
    dtype: torch.dtype = torch.float32
    kind: str = "one_over_f"
    channels_last: bool = False
    augmented: bool = False

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        extra = ", crop and flip" if self.augmented else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"amplitude_mix {self.height}x{self.width}: {dtype}, {self.kind}, {layout}{extra}"


def cases(size: int) -> list[Case]:
    """Every property of a call at least once per size, the calls that training makes first."""
    square: dict[str, Any] = {"height": size, "width": size}
    return [
        Case(**square, augmented=True),
        Case(**square),
        Case(**square, kind="random", channels_last=True, augmented=True),
        Case(**square, kind="flat"),
        Case(**square, kind="black"),
        Case(**square, dtype=torch.bfloat16, channels_last=True),
        Case(**square, dtype=torch.float16, augmented=True),
    ]


ANY_SIZE = [
    Case(height=33, width=47, augmented=True),
    Case(height=9, width=5),
    Case(height=1, width=1),
    Case(height=1, width=8, kind="random"),
    Case(height=31, width=31, dtype=torch.bfloat16, channels_last=True, augmented=True),
    Case(height=28, width=28, dtype=torch.float16),
    Case(height=96, width=96, kind="black"),
]
REHEARSED = [Case(height=5, width=3, dtype=torch.bfloat16)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Of one call, on some device and in some dtype; `grad` is the gradient to its result."""

    images: Tensor
    amplitude: Tensor
    lam: Tensor
    grad: Tensor
    crop_offsets: Tensor | None
    flip: Tensor | None

    def on(self, device: torch.device, dtype: torch.dtype) -> Arguments:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype)

        return Arguments(
            images=move(self.images),
            amplitude=move(self.amplitude),
            lam=self.lam.to(device, torch.float64 if dtype == torch.float64 else torch.float32),
            grad=move(self.grad),
            crop_offsets=None if self.crop_offsets is None else self.crop_offsets.to(device),
            flip=None if self.flip is None else self.flip.to(device),
        )


def run(setting: Setting, record: Recorder, *sizes: str) -> None:
    """The cases of these sizes, in pixels; "other": those that go through torch.fft."""
    for size in sizes:
        if size == "other":
            run_any_size(setting, record)
        else:
            run_size(int(size), setting, record)


def run_size(size: int, setting: Setting, record: Recorder) -> None:
    """All cases of one size; in a rehearsal, which interprets the kernel, the first of them."""
    _run_cases(setting.pick(cases(size), cases(size)[:1] if size == 16 else []), setting, record)
    name = f"amplitude_mix {size}x{size}: every launch variant gives the same bits"
    if not setting.rehearsal and setting.in_time(record, name):
        with record.gate(name) as notes:
            notes.text = check_variants(Case(height=size, width=size, augmented=True), setting)


def run_any_size(setting: Setting, record: Recorder) -> None:
    """Sizes that go through torch.fft and fused passes, an empty batch, and the choice of the backend."""
    _run_cases(setting.pick(ANY_SIZE, REHEARSED), setting, record)
    with record.gate("amplitude_mix: an empty batch, and what a GPU gets by default"):
        empty = make_arguments(Case(height=16, width=16), batch=0).on(setting.device, torch.float32)
        result, gradient = result_and_gradient(empty, "reference" if setting.rehearsal else None)
        require(result.shape == gradient.shape == (0, 3, 16, 16), "an empty batch does not stay empty")
        full = make_arguments(Case(height=16, width=16), batch=2).on(setting.device, torch.float32)
        require_triton_by_default("amplitude_mix", full.images, full.amplitude, full.lam)


def _run_cases(chosen: list[Case], setting: Setting, record: Recorder) -> None:
    for case in chosen:
        if setting.in_time(record, str(case)):
            with record.gate(str(case)) as notes:
                notes.text = check(case, setting)


def check(case: Case, setting: Setting) -> str:
    """Compare forward and gradient with float64; returns the errors as text."""
    backend = backend_of("amplitude_mix", setting)
    arguments = make_arguments(case, batch=setting.pick(16, 1))
    given = arguments.on(setting.device, case.dtype)
    if case.channels_last:
        given = _channels_last(given)
    # the float64 of what the kernel is given, after its rounding to the dtype; on the CPU, whose FFT keeps exact zeros
    exact = result_and_gradient(given.on(torch.device("cpu"), torch.float64), "reference")
    eager = result_and_gradient(given, "reference")
    with poisoned_memory():
        found = result_and_gradient(given, backend)
        again = result_and_gradient(given, backend)
    texts = []
    for name, one, other, theirs, true in zip(("result", "gradient"), found, again, eager, exact, strict=True):
        require(one.dtype == case.dtype and one.shape == true.shape, f"{name} is {one.dtype} {tuple(one.shape)}")
        require(not one.isnan().any(), f"{name} has values that were never written")
        require(same_bits(one, other), f"{name} differs between two calls with the same arguments")
        if name == "result":
            require(one.stride() == given.images.stride(), "the result has other strides than the images")
        texts.append(f"{name} {_compare(one, theirs, true, case)}")
    return "; ".join(texts)


def _compare(found: Tensor, eager: Tensor, exact: Tensor, case: Case) -> str:
    last_bits = 2 * torch.finfo(found.dtype).eps * float(exact.abs().max())
    ours, theirs = (_deciles((value.cpu().double() - exact).abs()) for value in (found, eager))
    text = f"{float(ours[1]):.2e}, eager {float(theirs[1]):.2e}"
    require((ours <= 2 * theirs + last_bits).all(), f"error {text} (ninth decile of the planes' worst)")
    own_transform = case.height == case.width in OWN_SIZES
    if own_transform and case.kind in ("flat", "black") and case.dtype == torch.float32:
        worst = float((found.cpu().double() - exact).abs().max())
        require(worst <= EXACT_BOUND, f"worst error {worst:.2e} on an image with exact zeros in its spectrum")
    return text


def _deciles(error: Tensor) -> Tensor:
    return error.flatten(2).amax(2).flatten().quantile(torch.tensor([0.5, 0.9], dtype=error.dtype))


def check_variants(case: Case, setting: Setting) -> str:
    """Bits of every choice that the backend otherwise makes by timing."""
    given = make_arguments(case, batch=16).on(setting.device, case.dtype)
    results = {}
    with poisoned_memory():
        for name in _each_variant(case.width):
            results[name] = result_and_gradient(given, backend_of("amplitude_mix", setting))
    first, *others = results.values()
    for name, other in zip(list(results)[1:], others, strict=True):
        require(all(same_bits(a, b) for a, b in zip(first, other, strict=True)), f"{name} gives other bits")
    return f"{len(results)} variants: {', '.join(results)}"


def _each_variant(size: int) -> Iterator[str]:
    """Makes every choice in turn the only one that the backend has, and says which."""
    yield "as chosen"
    module, capability = module_of("amplitude_mix"), torch.cuda.get_device_capability()[0]
    for table in ("FORWARD_PLANS", "BACKWARD_PLANS"):
        for capabilities, plans in getattr(module, table, {}).items():
            plan = plans.get(size)
            if capability not in capabilities or plan is None:
                continue
            for warps in plan.num_warps:
                plans[size] = replace(plan, num_warps=(warps,))
                try:
                    yield f"{table.split('_')[0].lower()} {warps} warps"
                finally:
                    plans[size] = plan


def make_arguments(case: Case, *, batch: int) -> Arguments:
    """On the CPU in float32; amplitudes as large as generated ones and larger."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 3, case.height, case.width)
    reach = min(case.height, case.width, 3)
    return Arguments(
        images=make_images(case.kind, shape) if batch else torch.zeros(shape),
        amplitude=3 * torch.rand(shape, generator=generator),
        lam=torch.rand(batch, generator=generator),
        grad=torch.randn(shape, generator=generator),
        crop_offsets=torch.randint(-reach, reach + 1, (batch, 2), generator=generator) if case.augmented else None,
        flip=torch.rand(batch, generator=generator) < 0.5 if case.augmented else None,
    )


def _channels_last(given: Arguments) -> Arguments:
    def convert(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last)

    return Arguments(
        images=convert(given.images),
        amplitude=given.amplitude,  # the generator's output is contiguous whatever the images are
        lam=given.lam,
        grad=convert(given.grad),
        crop_offsets=given.crop_offsets,
        flip=given.flip,
    )


def result_and_gradient(given: Arguments, backend: str | None) -> tuple[Tensor, Tensor]:
    """The mixed images and the gradient to the amplitude."""
    amplitude = given.amplitude.detach().requires_grad_()
    mixed = amplitude_mix(
        given.images, amplitude, given.lam, crop_offsets=given.crop_offsets, flip=given.flip, backend=backend
    )
    (gradient,) = torch.autograd.grad(mixed, amplitude, given.grad)
    return mixed.detach(), gradient
