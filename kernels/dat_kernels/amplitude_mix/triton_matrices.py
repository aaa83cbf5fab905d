"""The matrices of `triton_transform`, one set per size and device."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

# Matrices are stored this many times too large, so that float16 holds what their leading 11 bits leave; a transform is
# two products and multiplies by the square.
MATRIX_SCALE = 512.0
# Added to all frequencies, so that each has a phase; see triton_spectrum.phase_factors.
PULSE = 1e-15


@functools.cache
def transform_matrices(size: int, folded: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The table of matrices of one size, and the pulse at pixel (0, 0) as the transform shows it.

    Copied to the device on first use, which must come before a CUDA graph is captured.

    Returns:
        table: float16, [6, 2, 2, size/2, size/2] (stage, basis, part) if folded, else [6, 2, size, size] (stage, part).
        pulse: [2, size/2] float32: cosines and sines, one factor for u and one for v.
    """
    half = size // 2
    u = torch.arange(half, dtype=torch.float64)[:, None]
    middle = torch.arange(half if folded else size, dtype=torch.float64) + 0.5
    cosines, sines = (2 * math.pi / size * u * middle).cos(), (2 * math.pi / size * u * middle).sin()
    sines[0] = torch.ones_like(middle)
    sines[0, 1::2] = -1
    first_columns = torch.stack([cosines[:, 0], sines[:, 0]])
    if folded:
        image = torch.stack([_for_centred_input(cosines), sines])
        plain = torch.stack([cosines, sines])
        stages = [image, image.mT, plain.mT, plain, plain, plain.mT]
    else:
        plain = torch.cat([cosines, sines])
        image = _for_centred_input(plain)
        stages = [image.mT, image.mT, plain, plain, plain.mT, plain.mT]
    exact = MATRIX_SCALE * torch.stack(stages)
    leading = exact.half()
    table = torch.stack([leading, (exact - leading).half()], dim=-3)
    pulse = math.sqrt(PULSE) * MATRIX_SCALE * first_columns
    return table.contiguous().to(device), pulse.float().to(device)


def _for_centred_input(matrix: Tensor) -> Tensor:
    """`matrix` so changed that it takes what `triton_transform.centred` makes of its input.

    With i and j the two places, k the mean of the values there and z the centred input, z_i = k and elsewhere
    z_n = x_n - k. So x_n = z_n + z_i, and x_i = z_i - z_j because x_i + x_j = 2 k.
    """
    length = matrix.shape[1]
    i, j = length // 4, 3 * length // 4
    changed = matrix.clone()
    changed[:, j] -= matrix[:, i]
    changed[:, i] = 0
    changed[0, i] = length  # row sums, exactly: the first row is all ones and the others add up to 0
    return changed
