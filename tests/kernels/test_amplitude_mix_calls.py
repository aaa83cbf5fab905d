"""The amplitude mix and its gradient where they work, against float64: sizes, dtypes, layouts, views, launch variants.

The error of a plane is at most twice eager PyTorch's in the same dtype. Flat and black images have exact zeros in their
spectra: at the sizes whose transform is the kernel's own they have an absolute bound too; at others it is the FFT library's,
which promises no zeros.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch

from dat_kernels import amplitude_mix, backends
from tests.conftest import device_or_skip
from tests.kernels.inputs import KINDS, assert_error_at_most_twice_eager, generator, needs
from tests.kernels.mixes import arguments, result_and_gradient, views
from tests.kernels.steps import assert_same_bits

OWN_SIZES = (16, 32, 64)
EXACT_BOUND = 1e-5
"""On flat and black images, float32: some ten last bits of 1, far below what a wrong phase costs."""
BACKENDS = pytest.mark.parametrize("backend", ["native", pytest.param("triton", marks=pytest.mark.gpu)], indirect=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One kind of call; as text the end of its gate's name."""

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
        return f"{self.height}x{self.width}: {dtype}, {self.kind}, {layout}{extra}"


def calls_of(size: int) -> list[Call]:
    """Every property of a call at least once per size, the calls that training makes first."""
    square = {"height": size, "width": size}
    every = itertools.product((torch.float32, torch.bfloat16, torch.float16), KINDS)
    return [
        Call(**square, augmented=True),
        Call(**square, kind="random", channels_last=True, augmented=True),
        Call(**square, dtype=torch.bfloat16, channels_last=True),
        Call(**square, dtype=torch.float16, augmented=True),
        *(Call(**square, dtype=dtype, kind=kind) for dtype, kind in every),
    ]


CALLS = [
    *(call for size in OWN_SIZES for call in calls_of(size)),
    Call(height=33, width=47, augmented=True),
    Call(height=9, width=5),
    Call(height=1, width=1),
    Call(height=1, width=8, kind="random"),
    Call(height=31, width=31, dtype=torch.bfloat16, channels_last=True, augmented=True),
    Call(height=28, width=28, dtype=torch.float16),
    Call(height=96, width=96, kind="black"),
]


def given_for(call: Call, batch: int = 16):
    """(images, amplitude, lam, gradient to the result) on the CPU, and the crops and flips."""
    images, amplitude, lam = arguments((batch, 3, call.height, call.width), kind=call.kind, dtype=call.dtype)
    grad = torch.randn(images.shape, generator=generator(5)).to(call.dtype)
    if call.channels_last:  # the generator's output, the amplitude, is contiguous whatever the images are
        images, grad = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (images, grad))
    return (images, amplitude, lam, grad), views(batch, min(call.height, call.width, 3)) if call.augmented else {}


def moved(tensors, extra, device):
    return tuple(tensor.to(device) for tensor in tensors), {name: value.to(device) for name, value in extra.items()}


@BACKENDS
@pytest.mark.gate("amplitude_mix {call}")
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_errs_at_most_twice_as_much_as_eager(backend, device, call, poisoned_memory, record_property):
    on_cpu, extra = given_for(call)
    # the float64 of what the kernel is given, after its rounding to the dtype; on the CPU, whose FFT keeps exact zeros
    exact = result_and_gradient(*(tensor.double() for tensor in on_cpu), "reference", **extra)
    given, extra = moved(on_cpu, extra, device)
    eager, found, again = (result_and_gradient(*given, name, **extra) for name in ("reference", backend, backend))
    assert found[0].stride() == given[0].stride()
    errors = []
    for result, repeated, eager_result, exact_result in zip(found, again, eager, exact, strict=True):
        assert result.dtype == call.dtype
        assert_same_bits(result, repeated)
        assert_error_at_most_twice_eager(result.cpu(), eager_result.cpu(), exact_result)
        errors.append(float((result.cpu().double() - exact_result).abs().max()))
    record_property("note", f"worst error {errors[0]:.1e}, of the gradient {errors[1]:.1e}")
    if call.height == call.width in OWN_SIZES and call.kind in ("flat", "black") and call.dtype == torch.float32:
        assert max(errors) <= EXACT_BOUND


@pytest.mark.gpu
@pytest.mark.gate("amplitude_mix {size}x{size}: every launch variant gives the same bits")
@pytest.mark.parametrize("size", OWN_SIZES, ids=lambda size: f"{size}x{size}")
def test_every_launch_variant_gives_the_same_bits(size, poisoned_memory, record_property):
    """Of every choice that the backend otherwise makes by timing, which only a GPU has."""
    device = device_or_skip("cuda")
    needs("triton")
    given, extra = moved(*given_for(Call(height=size, width=size, augmented=True)), device)
    results = {name: result_and_gradient(*given, "triton", **extra) for name in each_variant(size)}
    (_, first), *others = results.items()
    for _, other in others:
        for one, two in zip(first, other, strict=True):
            assert_same_bits(one, two)
    record_property("note", f"{len(results)} variants: {', '.join(results)}")


def each_variant(size):
    """Makes every choice in turn the only one that the backend has, and says which."""
    from dat_kernels.amplitude_mix import triton_backend

    yield "as chosen"
    capability = torch.cuda.get_device_capability()[0]
    for table in ("FORWARD_PLANS", "BACKWARD_PLANS"):
        for capabilities, plans in getattr(triton_backend, table).items():
            plan = plans.get(size)
            if capability not in capabilities or plan is None:
                continue
            for warps in plan.num_warps:
                plans[size] = replace(plan, num_warps=(warps,))
                try:
                    yield f"{table.split('_')[0].lower()} {warps} warps"
                finally:
                    plans[size] = plan


@BACKENDS
@pytest.mark.gate("amplitude_mix: an empty batch, and what a GPU gets by default")
def test_an_empty_batch_stays_empty_and_the_fastest_backend_serves_by_default(backend, device):
    empty, _ = moved(given_for(Call(height=16, width=16, kind="random"), batch=0)[0], {}, device)
    for result in result_and_gradient(*empty, None):
        assert result.shape == (0, 3, 16, 16)
    (*full, _), _ = moved(*given_for(Call(height=16, width=16), batch=2), device)
    assert backends.choose("amplitude_mix", None, *full).__name__.endswith(f".{backend}_backend")
    assert amplitude_mix(*full).device == full[0].device
