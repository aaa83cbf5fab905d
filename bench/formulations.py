"""The operations of `kernels` as one writes them in eager PyTorch: what the kernels are measured against."""

from __future__ import annotations

import torch
from torch import Tensor


def mix_with_angles(images: Tensor, amplitude: Tensor, lam: Tensor) -> Tensor:
    """The amplitude mix as published code computes it: complex128, angle and exponential."""
    spectrum, weight = torch.fft.fft2(images.double()), lam.double()[:, None, None, None]
    mixed = weight * amplitude.double() + (1 - weight) * spectrum.abs()
    return torch.fft.ifft2(mixed * torch.exp(1j * spectrum.angle())).real.clamp(0, 1).float()


def mix_with_half_spectrum(images: Tensor, amplitude: Tensor, lam: Tensor) -> Tensor:
    """The amplitude mix as a careful user would write it: float32, half a spectrum, no angle."""
    weight, half = lam[:, None, None, None], images.shape[-1] // 2 + 1
    spectrum = torch.fft.rfft2(images)
    opposite = amplitude.flip(-2, -1).roll((1, 1), (-2, -1))
    symmetric = (amplitude[..., :half] + opposite[..., :half]) * (0.5 * weight)
    phase = spectrum / spectrum.abs().clamp_min(1e-30)
    return (torch.fft.irfft2(phase * symmetric, s=images.shape[-2:]) + (1 - weight) * images).clamp(0, 1)


def step_in_box(
    adversarial: Tensor, gradient: Tensor, images: Tensor, step_size: float | Tensor, epsilon: float | Tensor
) -> Tensor:
    """One step of projected gradient ascent. Step size and epsilon: a number or [B, 1, 1, 1]."""
    stepped = adversarial + step_size * gradient.sign()
    return torch.clamp(torch.min(torch.max(stepped, images - epsilon), images + epsilon), 0, 1)


def step_in_box_with_buffers(
    adversarial: Tensor,
    gradient: Tensor,
    images: Tensor,
    buffers: tuple[Tensor, Tensor],
    step_size: float | Tensor,
    epsilon: float | Tensor,
) -> Tensor:
    """The same without new memory: returns the first buffer, overwrites both."""
    stepped, bound = buffers
    torch.sign(gradient, out=stepped).mul_(step_size).add_(adversarial)
    torch.maximum(stepped, torch.sub(images, epsilon, out=bound), out=stepped)
    torch.minimum(stepped, torch.add(images, epsilon, out=bound), out=stepped)
    return stepped.clamp_(0, 1)


def gaussian_start(images: Tensor, scale: float) -> Tensor:
    """The attack's start, with PyTorch's own random numbers."""
    return (images + scale * torch.randn_like(images)).clamp(0, 1)


def crop_and_flip_each(dataset: Tensor, indices: Tensor, crop_offsets: Tensor, flip: Tensor) -> Tensor:
    """A crop and a flip per image, as torchvision's transforms do it."""
    padding, size = int(crop_offsets.abs().max()), dataset.shape[-1]
    padded = torch.nn.functional.pad(dataset[indices].float().div(255), (padding,) * 4)
    crops = []
    for image, (dy, dx), flipped in zip(padded, (crop_offsets + padding).tolist(), flip.tolist(), strict=True):
        crop = image[:, dy : dy + size, dx : dx + size]
        crops.append(crop.flip(-1) if flipped else crop)
    return torch.stack(crops)


def crop_and_flip_batch(dataset: Tensor, indices: Tensor, crop_offsets: Tensor, flip: Tensor) -> Tensor:
    """Gather, crop and flip of the whole batch without a loop, so that a compiler can take it."""
    channels, height, width = dataset.shape[1:]
    columns = torch.arange(width, device=dataset.device)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + crop_offsets[:, 1:2]
    rows = torch.arange(height, device=dataset.device) + crop_offsets[:, 0:1]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    images = dataset[
        indices[:, None, None, None],
        torch.arange(channels, device=dataset.device)[:, None, None],
        rows.clamp(0, height - 1)[:, None, :, None],
        columns.clamp(0, width - 1)[:, None, None, :],
    ]
    return torch.where(inside, images.float() / 255, 0)
