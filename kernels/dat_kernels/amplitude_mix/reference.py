"""The amplitude mix, literally, in plain PyTorch and in any floating dtype: the oracle of every other backend.

Source: DAT (arXiv 2410.12307), amplitude mixing with the phase of the natural image kept.
"""

import torch
from torch import Tensor

from dat_kernels.augment.reference import adjoint_offsets, crop_and_flip


def serves(images: Tensor, *others: Tensor) -> str | None:
    return None


def forward(images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> Tensor:
    """clip01((1 - lam) x + lam Re IFFT2(A_G U)), then crop and flip; the result has images' dtype."""
    x, generated, weight = _in_compute_dtype(images, amplitude, lam)
    mixed = _blend(x, generated, weight).clamp(0, 1)
    return torch.empty_like(images).copy_(crop_and_flip(mixed, crop_offsets, flip))


def backward_amplitude(
    grad: Tensor,
    images: Tensor,
    amplitude: Tensor,
    lam: Tensor,
    crop_offsets: Tensor | None,
    flip: Tensor | None,
) -> Tensor:
    """lam / (HW) Re(conj(U) FFT2(g)), g the gradient where the value before the clip lay in [0, 1]."""
    x, generated, weight = _in_compute_dtype(images, amplitude, lam)
    g = _grad_before_clip(grad, x, generated, weight, crop_offsets, flip)
    return torch.empty_like(amplitude).copy_(_grad_amplitude(g, phase_factor(torch.fft.fft2(x)), weight))


def backward_all(
    grad: Tensor,
    images: Tensor,
    amplitude: Tensor,
    lam: Tensor,
    crop_offsets: Tensor | None,
    flip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to images, amplitude and lam. README.md derives the path through the phase factor.

    U = X/|X| turns by Im(conj(U) dX)/|X|, so the gradient to the images has, besides (1 - lam) g, the term
    lam Re IFFT2(i U A_G/|X| Im(conj(U) FFT2(g))); where X = 0 the phase factor is constant.
    """
    x, generated, weight = _in_compute_dtype(images, amplitude, lam)
    g = _grad_before_clip(grad, x, generated, weight, crop_offsets, flip)
    spectrum = torch.fft.fft2(x)
    phase = phase_factor(spectrum)
    grad_spectrum = torch.fft.fft2(g)
    turn = torch.where(spectrum == 0, 0, generated / spectrum.abs() * (phase.conj() * grad_spectrum).imag)
    through_phase = torch.fft.ifft2(1j * phase * turn).real
    grad_images = (1 - weight) * g + weight * through_phase
    grad_lam = (g * (torch.fft.ifft2(generated * phase).real - x)).sum((1, 2, 3))
    return (
        torch.empty_like(images).copy_(grad_images),
        torch.empty_like(amplitude).copy_(_grad_amplitude(g, phase, weight)),
        torch.empty_like(lam).copy_(grad_lam),
    )


def phase_factor(spectrum: Tensor) -> Tensor:
    """X / |X|, and 1 where X = 0."""
    return torch.where(spectrum == 0, 1, spectrum / spectrum.abs())


def _in_compute_dtype(images: Tensor, amplitude: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    compute = torch.promote_types(images.dtype, torch.float32)
    return images.to(compute), amplitude.to(compute), lam.to(compute)[:, None, None, None]


def _blend(x: Tensor, generated: Tensor, weight: Tensor) -> Tensor:
    phase = phase_factor(torch.fft.fft2(x))
    return (1 - weight) * x + weight * torch.fft.ifft2(generated * phase).real


def _grad_before_clip(
    grad: Tensor, x: Tensor, generated: Tensor, weight: Tensor, crop_offsets: Tensor | None, flip: Tensor | None
) -> Tensor:
    g = crop_and_flip(grad.to(x.dtype), adjoint_offsets(crop_offsets, flip), flip)
    before_clip = _blend(x, generated, weight)
    return torch.where((before_clip >= 0) & (before_clip <= 1), g, 0)


def _grad_amplitude(g: Tensor, phase: Tensor, weight: Tensor) -> Tensor:
    pixels = g.shape[-2] * g.shape[-1]
    return weight / pixels * (phase.conj() * torch.fft.fft2(g)).real
