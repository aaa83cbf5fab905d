"""How exact must the amplitude mix's matrix products be? Emulates number formats, prints their errors as Markdown.

    python -m bench.amplitude_mix_precision [--size 32] [--planes 512]

No hardware is involved: operands are rounded to the format, and products and sums are float32, as on a tensor core.
The transform is the four real matrix products of amplitude_mix/README.md. Images are 8-bit with a 1/f spectrum,
as photographs have; the generated amplitude is that of another such image and lam is 1, the worst case. Errors are
those of the final image against float64: the worst pixel of the median plane, and of the 99th percentile plane.
1/255 is 3.9e-03.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]


def keep_bits(value: Tensor, bits: int) -> Tensor:
    """float32 rounded to nearest, ties to even, with `bits` bits of mantissa, the leading one included."""
    drop = 24 - bits
    integer = value.view(torch.int32)
    half = (1 << (drop - 1)) - 1 + (integer >> drop & 1)
    return (integer + half >> drop << drop).view(torch.float32)


def single(bits: int) -> Product:
    return lambda a, b: keep_bits(a, bits) @ keep_bits(b, bits)


def triple(bits: int) -> Product:
    """Each operand as the sum of two numbers of the format; the product of the two small parts is left out."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        a_high, b_high = keep_bits(a, bits), keep_bits(b, bits)
        a_low, b_low = keep_bits(a - a_high, bits), keep_bits(b - b_high, bits)
        return a_low @ b_high + a_high @ b_low + a_high @ b_high

    return product


FORMATS: dict[str, Product] = {
    "fp32": torch.matmul,
    "tf32x3": triple(11),
    "bf16x3": triple(8),
    "tf32": single(11),
    "bf16": single(8),
}


def real_basis(size: int) -> Tensor:
    """[size, size] float64: cosines u = 0 .. size/2, then sines u = 1 .. size/2 - 1, as rows."""
    n = torch.arange(size, dtype=torch.float64)
    half = size // 2
    cosines = torch.cos(2 * math.pi * (n[: half + 1, None] * n % size) / size)
    sines = torch.sin(2 * math.pi * (n[1:half, None] * n % size) / size)
    return torch.cat([cosines, sines])


def conjugate_pairs(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """F(u, v) and F(u, -v) from Y = R x R^T; slot (0, 0) holds four real frequencies, returned as two numbers each."""
    half = blocks.shape[-1] // 2
    a, b, c, d = (blocks[..., r, s] for r in (slice(half), slice(half, None)) for s in (slice(half), slice(half, None)))
    plus, minus = torch.complex(a - d, -(b + c)), torch.complex(a + d, b - c)
    plus[..., 0, :], minus[..., 0, :] = torch.complex(a, -b)[..., 0, :], torch.complex(c, -d)[..., 0, :]
    plus[..., :, 0], minus[..., :, 0] = torch.complex(a, -c)[..., :, 0], torch.complex(b, -d)[..., :, 0]
    plus[..., 0, 0], minus[..., 0, 0] = torch.complex(a, b)[..., 0, 0], torch.complex(c, d)[..., 0, 0]
    return plus, minus


def blocks_of(plus: Tensor, minus: Tensor) -> Tensor:
    """The inverse of `conjugate_pairs`."""
    a, d = (plus + minus).real / 2, (minus - plus).real / 2
    b, c = (minus - plus).imag / 2, -(plus + minus).imag / 2
    a[..., 0, :], b[..., 0, :] = plus.real[..., 0, :], -plus.imag[..., 0, :]
    c[..., 0, :], d[..., 0, :] = minus.real[..., 0, :], -minus.imag[..., 0, :]
    a[..., :, 0], c[..., :, 0] = plus.real[..., :, 0], -plus.imag[..., :, 0]
    b[..., :, 0], d[..., :, 0] = minus.real[..., :, 0], -minus.imag[..., :, 0]
    a[..., 0, 0], b[..., 0, 0] = plus.real[..., 0, 0], plus.imag[..., 0, 0]
    c[..., 0, 0], d[..., 0, 0] = minus.real[..., 0, 0], minus.imag[..., 0, 0]
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def unit(value: Tensor) -> Tensor:
    return torch.where(value == 0, 1, value / value.abs())


def generated_part(images: Tensor, amplitude: Tensor, product: Product) -> Tensor:
    """Re IFFT2(A U) of [..., N, N] float32 planes by four matrix products."""
    size = images.shape[-1]
    half = size // 2
    basis = real_basis(size).float()
    plus, minus = conjugate_pairs(product(product(basis, images), basis.T))
    u, v = torch.arange(half)[:, None], torch.arange(half)
    # the frequency of the second number of a slot: (u, -v), on the axes (N/2, v) and (u, N/2)
    u_minus = torch.where(u == 0, half, u).expand(half, half)
    v_minus = torch.where(u == 0, v, torch.where(v == 0, half, -v % size))
    symmetric = (amplitude + amplitude.flip(-2, -1).roll((1, 1), (-2, -1))) / 2
    scaled_plus = symmetric[..., u, v] * unit(plus)
    scaled_minus = symmetric[..., u_minus, v_minus] * unit(minus)
    for scaled, pair, places in (
        (scaled_plus, plus, ((0, 0), (0, half))),
        (scaled_minus, minus, ((half, 0), (half, half))),
    ):
        real, imaginary = (
            symmetric[..., row, column] * torch.where(part < 0, -1, 1)
            for part, (row, column) in zip((pair.real[..., 0, 0], pair.imag[..., 0, 0]), places, strict=True)
        )
        scaled[..., 0, 0] = torch.complex(real, imaginary)
    weight = torch.full((size,), 2.0)
    weight[0] = weight[half] = 1.0
    weighted = weight[:, None] * weight * blocks_of(scaled_plus, scaled_minus)
    return product(product(basis.T, weighted), basis) / size**2


def photographs(planes: int, size: int, generator: torch.Generator) -> Tensor:
    """[planes, size, size] float32 multiples of 1/255 in [0, 1] whose amplitude falls with the frequency."""
    axis = torch.fft.fftfreq(size)
    frequency = axis[:, None].hypot(axis)
    frequency[0, 0] = 1 / size
    noise = torch.fft.ifft2(torch.fft.fft2(torch.randn(planes, size, size, generator=generator)) / frequency).real
    noise = noise / noise.std((-2, -1), keepdim=True)
    return ((0.47 + 0.22 * noise).clamp(0, 1) * 255).round() / 255


def worst_pixels(size: int, planes: int, seed: int = 0) -> dict[str, Tensor]:
    """Each format's worst pixel error per plane, [planes]."""
    generator = torch.Generator().manual_seed(seed)
    images, others = photographs(planes, size, generator), photographs(planes, size, generator)
    amplitude = torch.fft.fft2(others).abs()
    exact = torch.fft.ifft2(amplitude.double() * unit(torch.fft.fft2(images.double()))).real.clamp(0, 1)
    spectrum = torch.fft.fft2(images)
    results = {"eager FFT in fp32": torch.fft.ifft2(amplitude * unit(spectrum)).real}
    results |= {name: generated_part(images, amplitude, product) for name, product in FORMATS.items()}
    return {name: (result.clamp(0, 1) - exact).abs().amax((-2, -1)) for name, result in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--planes", type=int, default=512)
    arguments = parser.parse_args()
    print("| matrix products | " + " | ".join(f"{size} px, median | {size} px, 99 %" for size in arguments.size) + " |")
    print("|---" * (1 + 2 * len(arguments.size)) + "|")
    columns = [worst_pixels(size, arguments.planes) for size in arguments.size]
    quantiles = torch.tensor([0.5, 0.99], dtype=torch.float64)
    for name in columns[0]:
        cells = [f"{value:.1e}" for column in columns for value in column[name].quantile(quantiles).tolist()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
