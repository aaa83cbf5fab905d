"""The amplitude mix on CUDA: one launch at 16, 32 and 64 pixels square, torch.fft and fused passes elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from dat_kernels import triton_tensors
from dat_kernels.amplitude_mix import triton_kernel, triton_pointwise
from dat_kernels.amplitude_mix.triton_matrices import transform_matrices


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How planes of a size are launched, one to a program; see `triton_transform` for folding.

    Where there are several numbers of warps, all of which give the same bits, the fastest is found by timing, and the
    first serves where there is no time for that. No plan spills registers.
    """

    folded: bool
    num_warps: tuple[int, ...]


# By major compute capability, then size. The matrix units of Hopper and data-centre Blackwell read an operand from
# shared memory, which leaves registers for planes of 64 pixels; elsewhere those take the way through torch.fft.
Plans = dict[tuple[int, ...], dict[int, Plan]]
FORWARD_PLANS: Plans = {
    (9, 10): {
        16: Plan(folded=False, num_warps=(1,)),
        32: Plan(folded=True, num_warps=(1,)),
        64: Plan(folded=False, num_warps=(4, 8)),
    },
    (8, 11, 12): {16: Plan(folded=False, num_warps=(1,)), 32: Plan(folded=False, num_warps=(2,))},
}
BACKWARD_PLANS: Plans = {
    (9, 10): {
        16: Plan(folded=False, num_warps=(1,)),
        32: Plan(folded=False, num_warps=(2,)),
        64: Plan(folded=False, num_warps=(8,)),
    },
    (8, 11, 12): {16: Plan(folded=False, num_warps=(1,)), 32: Plan(folded=False, num_warps=(2,))},
}
ELEMENTS_PER_PROGRAM = 512

_fastest_warps: dict[tuple[object, ...], int] = {}


def serves(images: Tensor, *others: Tensor) -> str | None:
    return triton_tensors.why_not(triton_tensors.FLOATING, images, *others)


def forward(images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> Tensor:
    out = torch.empty_like(images)
    samples = (lam, crop_offsets, flip)
    with torch.cuda.device_of(images):
        plan = _plan(FORWARD_PLANS, images)
        if plan is None:
            _mix_any_size(images, amplitude, samples, out)
        else:
            _mix_planes(plan, _addressable(images), _addressable(amplitude), samples, out)
    return out


def backward_amplitude(
    grad: Tensor, images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None
) -> Tensor:
    out = torch.empty_like(amplitude)
    samples = (lam, crop_offsets, flip)
    with torch.cuda.device_of(images):
        plan = _plan(BACKWARD_PLANS, images)
        if plan is None:
            _backward_any_size(grad, images, amplitude, samples, out)
        else:
            _backward_planes(plan, _addressable(grad), _addressable(images), _addressable(amplitude), samples, out)
    return out


Samples = tuple[Tensor, Tensor | None, Tensor | None]  # lam, crop_offsets, flip


def _mix_planes(plan: Plan, images: Tensor, amplitude: Tensor, samples: Samples, out: Tensor) -> None:
    batch, channels, _, size = images.shape
    table, pulse = transform_matrices(size, plan.folded, images.device)

    def launch(num_warps: int) -> None:
        triton_kernel.mix_forward[(batch * channels,)](
            images, amplitude, *samples, table, pulse, out, channels,
            *images.stride(), *amplitude.stride(), *out.stride(), *_strides(*samples),
            SIZE=size, FOLDED=plan.folded, **_flags(*samples),
            num_warps=num_warps, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip

    _launch_fastest(launch, plan, "forward", images)


def _backward_planes(
    plan: Plan, grad: Tensor, images: Tensor, amplitude: Tensor, samples: Samples, out: Tensor
) -> None:
    batch, channels, _, size = images.shape
    table, pulse = transform_matrices(size, plan.folded, images.device)

    def launch(num_warps: int) -> None:
        triton_kernel.mix_backward_amplitude[(batch * channels,)](
            grad, images, amplitude, *samples, table, pulse, out, channels,
            *grad.stride(), *images.stride(), *amplitude.stride(), *out.stride(), *_strides(*samples),
            SIZE=size, **_flags(*samples),
            num_warps=num_warps, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip

    _launch_fastest(launch, plan, "backward", images)


def _mix_any_size(images: Tensor, amplitude: Tensor, samples: Samples, out: Tensor) -> None:
    _, channels, height, width = images.shape
    generated = _generated(torch.fft.rfft2(images.float()).contiguous(), amplitude)
    triton_pointwise.blend[_grid(images, width)](
        images, generated, *samples, out, channels, height, width,
        *images.stride(), *out.stride(), *_strides(*samples),
        **_flags(*samples), BLOCK=ELEMENTS_PER_PROGRAM, enable_fp_fusion=True,
    )  # fmt: skip


def _backward_any_size(grad: Tensor, images: Tensor, amplitude: Tensor, samples: Samples, out: Tensor) -> None:
    _, channels, height, width = images.shape
    spectrum = torch.fft.rfft2(images.float()).contiguous()
    generated = _generated(spectrum, amplitude)
    before_clip = torch.empty_like(generated)
    triton_pointwise.grad_before_clip[_grid(images, width)](
        grad, images, generated, *samples, before_clip, channels, height, width,
        *grad.stride(), *images.stride(), *_strides(*samples),
        **_flags(*samples), BLOCK=ELEMENTS_PER_PROGRAM, enable_fp_fusion=True,
    )  # fmt: skip
    grad_spectrum = torch.fft.rfft2(before_clip).contiguous()
    triton_pointwise.projections[_grid(images, width)](
        torch.view_as_real(spectrum), torch.view_as_real(grad_spectrum), samples[0], out, channels, height, width,
        *out.stride(), samples[0].stride(0), BLOCK=ELEMENTS_PER_PROGRAM, enable_fp_fusion=True,
    )  # fmt: skip


def _generated(spectrum: Tensor, amplitude: Tensor) -> Tensor:
    """Re IFFT2(A_G U), contiguous float32, from the images' half spectrum."""
    channels, height, width = amplitude.shape[1:]
    generated = torch.empty_like(spectrum)
    triton_pointwise.generated_half_spectrum[_grid(amplitude, width // 2 + 1)](
        torch.view_as_real(spectrum), amplitude, torch.view_as_real(generated), channels, height, width,
        *amplitude.stride(), BLOCK=ELEMENTS_PER_PROGRAM, enable_fp_fusion=True,
    )  # fmt: skip
    return torch.fft.irfft2(generated, s=(height, width)).contiguous()


def _grid(images: Tensor, columns: int) -> tuple[int]:
    batch, channels, height, _ = images.shape
    return (batch * channels * triton.cdiv(height * columns, ELEMENTS_PER_PROGRAM),)


def _plan(plans: Plans, images: Tensor) -> Plan | None:
    """None where planes of this size do not fit a program of this device."""
    height, width = images.shape[-2:]
    capability = _capability(images)
    by_size = next((by_size for capabilities, by_size in plans.items() if capability in capabilities), {})
    return by_size.get(width) if height == width else None


def _capability(images: Tensor) -> int:
    """Major compute capability; in the interpreter Hopper's."""
    return torch.cuda.get_device_capability(images.device)[0] if images.is_cuda else 9


def _addressable(tensor: Tensor) -> Tensor:
    """`tensor` itself, unless 32 bits, with which the kernels count inside a plane, are too few for its strides."""
    height, width = tensor.shape[-2:]
    reach = height * tensor.stride(-2) + width * tensor.stride(-1)
    return tensor if reach < 2**31 else tensor.contiguous()


def _strides(lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> tuple[int, ...]:
    crop_strides = (0, 0) if crop_offsets is None else crop_offsets.stride()
    return lam.stride(0), *crop_strides, 0 if flip is None else flip.stride(0)


def _flags(lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> dict[str, bool]:
    return {"HAS_CROP": crop_offsets is not None, "HAS_FLIP": flip is not None}


def _launch_fastest(launch: Callable[[int], None], plan: Plan, name: str, images: Tensor) -> None:
    first, *others = plan.num_warps
    if not others or not images.is_cuda:
        return launch(first)
    planes = images.shape[0] * images.shape[1]
    case = (name, images.shape[-1], images.dtype, images.device, planes.bit_length())
    if case not in _fastest_warps:
        if torch.cuda.is_current_stream_capturing():
            return launch(first)
        times = {n: _milliseconds(launch, n) for n in plan.num_warps}
        _fastest_warps[case] = min(times, key=times.__getitem__)
    launch(_fastest_warps[case])


def _milliseconds(launch: Callable[[int], None], num_warps: int) -> float:
    return triton.testing.do_bench(lambda: launch(num_warps), warmup=2, rep=10, return_mode="median")
