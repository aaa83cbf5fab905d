"""Made-up images with the spectrum of photographs, whose amplitudes fall as one over the frequency."""

from __future__ import annotations

import torch
from torch import Tensor


def one_over_f(shape: tuple[int, ...], *, seed: int = 0, device: torch.device | None = None) -> Tensor:
    """float32 [B, C, H, W] of 8-bit values in [0, 1]; drawn on `device`, the CPU by default."""
    generator = torch.Generator(device or "cpu").manual_seed(seed)
    rows, columns = (torch.fft.fftfreq(size, device=device) for size in shape[-2:])
    frequency = rows[:, None].hypot(columns[None])
    frequency[0, 0] = 1 / max(shape[-2:])
    white = torch.randn(shape, generator=generator, device=device)
    noise = torch.fft.ifft2(torch.fft.fft2(white) / frequency).real
    noise = noise / noise.std((-2, -1), correction=0, keepdim=True).clamp_min(1e-6)
    return ((0.47 + 0.22 * noise).clamp(0, 1) * 255).round() / 255
