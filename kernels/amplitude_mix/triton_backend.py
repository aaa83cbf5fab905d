"""The amplitude mix on CUDA: one launch at 16, 32 and 64 pixels square, torch.fft and fused passes elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
from torch import Tensor

from kernels.amplitude_mix import triton_kernel, triton_pointwise
from kernels.amplitude_mix.triton_matrices import transform_matrices

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Warps per program by size; a program is one plane. None of them spills registers. Where there are several, all of which give
# the same bits, the fastest is found by timing, and the first serves where there is no time for that.
FORWARD_WARPS = {16: (1,), 32: (1,), 64: (4, 8)}
BACKWARD_WARPS = {16: (1,), 32: (2,), 64: (8,)}
FOLDED_FORWARD_SIZES = (32,)
# 64 pixels fit the registers only where matrix units read operands from shared memory: Hopper and data-centre Blackwell.
CAPABILITIES_FOR_64 = (9, 10)
ELEMENTS_PER_PROGRAM = 1024

_fastest_warps: dict[tuple[object, ...], int] = {}


def serves(images: Tensor, *others: Tensor) -> str | None:
    for tensor in (images, *others):
        if tensor.dtype not in DTYPES:
            return f"it takes float32, bfloat16 and float16 and was given {tensor.dtype}"
    return None


def forward(images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> Tensor:
    out = torch.empty_like(images)
    samples = (lam, crop_offsets, flip)
    with torch.cuda.device_of(images):
        if _fits_a_program(images):
            _mix_planes(_addressable(images), _addressable(amplitude), samples, out)
        else:
            _mix_any_size(images, amplitude, samples, out)
    return out


def backward_amplitude(
    grad: Tensor, images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None
) -> Tensor:
    out = torch.empty_like(amplitude)
    samples = (lam, crop_offsets, flip)
    with torch.cuda.device_of(images):
        if _fits_a_program(images):
            _backward_planes(_addressable(grad), _addressable(images), _addressable(amplitude), samples, out)
        else:
            _backward_any_size(grad, images, amplitude, samples, out)
    return out


Samples = tuple[Tensor, Tensor | None, Tensor | None]  # lam, crop_offsets, flip


def _mix_planes(images: Tensor, amplitude: Tensor, samples: Samples, out: Tensor) -> None:
    batch, channels, _, size = images.shape
    folded = size in FOLDED_FORWARD_SIZES
    table, pulse = transform_matrices(size, folded, images.device)

    def launch(num_warps: int) -> None:
        triton_kernel.mix_forward[(batch * channels,)](
            images, amplitude, *samples, table, pulse, out, channels,
            *images.stride(), *amplitude.stride(), *out.stride(), *_strides(*samples),
            SIZE=size, FOLDED=folded, **_flags(*samples),
            num_warps=num_warps, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip

    _launch_fastest(launch, FORWARD_WARPS[size], "forward", images)


def _backward_planes(grad: Tensor, images: Tensor, amplitude: Tensor, samples: Samples, out: Tensor) -> None:
    batch, channels, _, size = images.shape
    table, pulse = transform_matrices(size, False, images.device)

    def launch(num_warps: int) -> None:
        triton_kernel.mix_backward_amplitude[(batch * channels,)](
            grad, images, amplitude, *samples, table, pulse, out, channels,
            *grad.stride(), *images.stride(), *amplitude.stride(), *out.stride(), *_strides(*samples),
            SIZE=size, **_flags(*samples),
            num_warps=num_warps, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip

    _launch_fastest(launch, BACKWARD_WARPS[size], "backward", images)


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


def _fits_a_program(images: Tensor) -> bool:
    height, width = images.shape[-2:]
    if width == 64 and images.is_cuda and torch.cuda.get_device_capability(images.device)[0] not in CAPABILITIES_FOR_64:
        return False
    return height == width and width in FORWARD_WARPS


def _addressable(tensor: Tensor) -> Tensor:
    """`tensor` itself, unless 32 bits, with which the kernels count inside a plane, are too few for its strides."""
    height, width = tensor.shape[-2:]
    reach = height * tensor.stride(-2) + width * tensor.stride(-1)
    return tensor if reach < 2**31 else tensor.contiguous()


def _strides(lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> tuple[int, int, int, int]:
    crop_strides = (0, 0) if crop_offsets is None else crop_offsets.stride()
    return lam.stride(0), *crop_strides, 0 if flip is None else flip.stride(0)


def _flags(lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> dict[str, bool]:
    return {"HAS_CROP": crop_offsets is not None, "HAS_FLIP": flip is not None}


def _launch_fastest(launch: Callable[[int], None], choices: tuple[int, ...], name: str, images: Tensor) -> None:
    if len(choices) == 1 or not images.is_cuda:
        return launch(choices[0])
    planes = images.shape[0] * images.shape[1]
    case = (name, images.shape[-1], images.dtype, images.device, planes.bit_length())
    if case not in _fastest_warps:
        if torch.cuda.is_current_stream_capturing():
            return launch(choices[0])
        times = {n: triton.testing.do_bench(lambda n=n: launch(n), warmup=2, rep=10, return_mode="median") for n in choices}
        _fastest_warps[case] = min(times, key=times.__getitem__)
    launch(_fastest_warps[case])
