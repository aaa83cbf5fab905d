"""The images a training step looks at: the amplitude mix, and random crop and flip with their offsets given."""

import torch
from torch import Tensor


def amplitude_mix(*, images: Tensor, amplitude: Tensor, lam: Tensor) -> Tensor:
    """x̂ = clip01(Re IFFT2((lam·A_G + (1-lam)·A) ∘ U)) by full complex transforms in float64.

    images and amplitude [B, C, H, W] (amplitude in plain FFT order), lam [B]. A = |X| and U = X/|X| of X = FFT2(x),
    with U = 1 where X is exactly 0. Gradients flow to all three; the clip keeps them at its bounds.
    """
    spectrum = torch.fft.fft2(images.double())
    original_amplitude = spectrum.abs()
    is_zero = original_amplitude == 0
    ones = torch.ones_like(spectrum)
    phase_factor = torch.where(is_zero, ones, spectrum / torch.where(is_zero, ones.real, original_amplitude))
    weight = lam.double().reshape(-1, 1, 1, 1)
    mixed_amplitude = weight * amplitude.double() + (1 - weight) * original_amplitude
    return torch.fft.ifft2(mixed_amplitude * phase_factor).real.clamp(0.0, 1.0)


def crop_and_flip(*, images: Tensor, offsets: Tensor, flip: Tensor) -> Tensor:
    """out[b, c, y, x] = images[b, c, y + dy, x_ + dx], 0 outside the image, x_ = W-1-x where flip[b], else x.

    images [B, C, H, W], offsets integer [B, 2] as (dy, dx), flip bool [B]. Differentiable in the images.
    """
    batch, channels, height, width = images.shape
    samples = []
    for sample in range(batch):
        dy, dx = int(offsets[sample, 0]), int(offsets[sample, 1])
        pixels = images[sample].reshape(channels, height * width).unbind(dim=1)
        outside = torch.zeros_like(pixels[0])
        chosen = []
        for y in range(height):
            for x in range(width):
                column = width - 1 - x if bool(flip[sample]) else x
                source_y, source_x = y + dy, column + dx
                inside = 0 <= source_y < height and 0 <= source_x < width
                chosen.append(pixels[source_y * width + source_x] if inside else outside)
        samples.append(torch.stack(chosen, dim=1).reshape(channels, height, width))
    return torch.stack(samples)
