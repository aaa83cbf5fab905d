"""The amplitude mix on the CPU: one compiled pass at 16, 32 and 64 pixels, torch.fft and compiled passes elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import dat_kernels._native as _native
from dat_kernels.native import memory

FAST_SIZES = (16, 32, 64)


def serves(images: Tensor, *others: Tensor) -> str | None:
    return memory.why_not(images, *others)


def forward(images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> Tensor:
    call = _Call(images, amplitude, lam, crop_offsets, flip)
    out = torch.empty_like(images)
    written = memory.writable(out)
    if call.is_fast_size:
        call.run(_native.mix, images=call.images, amplitude=call.amplitude, out=written)
    else:
        spectrum = torch.fft.rfft2(call.plain_images())
        call.run(_native.mix_blend, images=call.images, generated=call.generated(spectrum), out=written)
    memory.deliver(written, out)
    return out


def backward_amplitude(
    grad: Tensor, images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None
) -> Tensor:
    call = _Call(images, amplitude, lam, crop_offsets, flip)
    grad = memory.dense(grad.to(torch.float32) if grad.dtype not in memory.DTYPE_CODES else grad)
    out = torch.empty_like(amplitude)
    written = memory.writable(out)
    if call.is_fast_size:
        call.run(_native.mix_backward, images=call.images, amplitude=call.amplitude, grad=grad, out=written)
        memory.deliver(written, out)
        return out
    spectrum = torch.fft.rfft2(call.plain_images())
    masked = torch.empty(images.shape, dtype=torch.float32)
    call.run(_native.mix_mask, images=call.images, grad=grad, generated=call.generated(spectrum.clone()), out=masked)
    grad_spectrum = torch.fft.rfft2(masked)
    call.run(_native.mix_grad_spectrum, spectrum=spectrum, grad_spectrum=grad_spectrum, out=written)
    memory.deliver(written, out)
    return out


class _Call:
    """The arguments of one call in the form that the compiled module takes, kept alive while it runs."""

    def __init__(
        self, images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None
    ) -> None:
        self.images = memory.dense(images)
        self.amplitude = memory.dense(amplitude)
        self.lam = lam.to(torch.float32).contiguous()
        self.crop_offsets = memory.as_offsets(crop_offsets)
        self.flip = None if flip is None else flip.contiguous()
        height, width = images.shape[-2:]
        self.is_fast_size = height == width and width in FAST_SIZES

    def run(
        self,
        kernel: Any,
        *,
        images: Tensor | None = None,
        amplitude: Tensor | None = None,
        grad: Tensor | None = None,
        out: Tensor | None = None,
        generated: Tensor | None = None,
        spectrum: Tensor | None = None,
        grad_spectrum: Tensor | None = None,
    ) -> None:
        kernel(
            memory.describe(images),
            memory.describe(amplitude),
            memory.describe(grad),
            memory.describe(out),
            memory.address(self.lam),
            memory.address(generated),
            memory.address(spectrum),
            memory.address(grad_spectrum),
            memory.address(self.crop_offsets),
            memory.address(self.flip),
            tuple(self.images.shape),
            memory.threads_for(self.images.numel()),
        )

    def plain_images(self) -> Tensor:
        return self.images.to(torch.float32).contiguous()

    def generated(self, spectrum: Tensor) -> Tensor:
        """lam Re IFFT2(A_G U), planar float32; `spectrum` is overwritten."""
        self.run(_native.mix_spectrum, amplitude=self.amplitude.to(torch.float32).contiguous(), spectrum=spectrum)
        height, width = self.images.shape[-2:]
        return torch.fft.irfft2(spectrum, s=(height, width))
