"""Discrete Fourier transforms of small square planes as matrix products on register tiles. jit functions only.

Both take the transform about the middle of the image: exp(-2 pi i u (n + 1/2)/SIZE). That differs from the plain one
by a factor of modulus one per frequency, which cancels between the transform and its inverse. The real basis has the
cosines u = 0..HALF-1 and the sines u = 1..HALF-1, with u = HALF in the sines' slot 0 (HALF = SIZE/2). A plane's
spectrum is four tiles [HALF, HALF], rows v (along the image's width), columns u (along its height): a of cosines in u
and v, b of cosines in u and sines in v, c of sines in u and cosines in v, d of sines. F(u,v) = (a-d) - i(b+c) and
F(u,-v) = (a+d) + i(b-c) for u, v > 0; on the axes F(0,v) = a - ib, F(HALF,v) ~ c - id, F(u,0) = a - ic, F(u,HALF) ~ b
- id; slot (0,0) holds four real frequencies.

`whole_*` work on a tile [SIZE, SIZE] of pixels. `folded_*` work on its four quadrants, mirrored onto the first: about
the middle, cosines are even and sines odd, so sums of mirrored pixels need the cosines alone and differences the sines
alone: half the work. (At 16 pixels the folded matrices are too small for tensor cores, at 64 four tiles take too many
registers.)
"""

# Triton compiles these functions; their arguments have no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from dat_kernels.amplitude_mix import triton_matrices

# The table of matrices is [stage, basis, part], or [stage, part] for whole planes; `triton_matrices` makes it. Every
# stage has matrices of its own, also where two are equal: the compiler would keep one that it has met in registers.
IMAGE_ACROSS = tl.constexpr(0)
IMAGE_ALONG = tl.constexpr(1)
INVERSE_ACROSS = tl.constexpr(2)
INVERSE_ALONG = tl.constexpr(3)
GRADIENT_ACROSS = tl.constexpr(4)
GRADIENT_ALONG = tl.constexpr(5)
COSINE = tl.constexpr(0)
SINE = tl.constexpr(1)
MATRIX_SCALE = tl.constexpr(triton_matrices.MATRIX_SCALE)


@triton.jit
def whole_image_spectrum(
    x,
    table_ptr,  # [6, 2, SIZE, SIZE] float16
    SIZE: tl.constexpr,
):
    """a, b, c, d of an image, with exact zeros where an image that is constant along an axis has them.

    The phase factor is 1 where the spectrum is 0, and arbitrary where it is rounding noise instead, so zeros matter. An
    FFT gives them exactly, for it begins with differences of pixels, and so does this transform.
    """
    x = tl.trans(_product(centred(x, SIZE), table_ptr, IMAGE_ACROSS, SIZE))
    return _four_tiles(_product(centred(x, SIZE), table_ptr, IMAGE_ALONG, SIZE), SIZE)


@triton.jit
def whole_spectrum(
    x,
    table_ptr,  # [6, 2, SIZE, SIZE] float16
    SIZE: tl.constexpr,
):
    """a, b, c, d of a plane whose zeros do not matter."""
    x = tl.trans(_product(x, table_ptr, GRADIENT_ACROSS, SIZE))
    return _four_tiles(_product(x, table_ptr, GRADIENT_ALONG, SIZE), SIZE)


@triton.jit
def whole_plane(
    a,
    b,
    c,
    d,
    table_ptr,  # [6, 2, SIZE, SIZE] float16
    SIZE: tl.constexpr,
):
    """Inverse transform, times SIZE^2, of a spectrum whose conjugate pairs have been added up."""
    tile = tl.permute(tl.join(tl.join(a, b), tl.join(c, d)), [2, 0, 3, 1])
    tile = tl.trans(_product(tl.reshape(tile, [SIZE, SIZE]), table_ptr, INVERSE_ACROSS, SIZE))
    return _product(tile, table_ptr, INVERSE_ALONG, SIZE)


@triton.jit
def _four_tiles(tile, SIZE: tl.constexpr):
    HALF: tl.constexpr = SIZE // 2
    tile = tl.permute(tl.reshape(tile, [2, HALF, 2, HALF]), [1, 3, 0, 2])
    cosines_of_u, sines_of_u = tl.split(tile)
    a, b = tl.split(cosines_of_u)
    c, d = tl.split(sines_of_u)
    return a, b, c, d


@triton.jit
def folded_image_spectrum(
    x00,
    x01,
    x10,
    x11,
    table_ptr,  # [6, 2, 2, HALF, HALF] float16
    HALF: tl.constexpr,
):
    """whole_image_spectrum of four quadrants: pixels (n, m) and their mirror images in m, in n and in both."""
    even, odd, even_, odd_ = x00 + x10, x00 - x10, x01 + x11, x01 - x11
    pp = _across(centred(even + even_, HALF), table_ptr, IMAGE_ACROSS, COSINE, HALF)
    qp = _across(centred(odd + odd_, HALF), table_ptr, IMAGE_ACROSS, COSINE, HALF)
    pq = _across(even - even_, table_ptr, IMAGE_ACROSS, SINE, HALF)
    qq = _across(odd - odd_, table_ptr, IMAGE_ACROSS, SINE, HALF)
    a = _product(centred(pp, HALF), table_ptr, 2 * IMAGE_ALONG + COSINE, HALF)
    b = _product(centred(pq, HALF), table_ptr, 2 * IMAGE_ALONG + COSINE, HALF)
    c = _product(qp, table_ptr, 2 * IMAGE_ALONG + SINE, HALF)
    d = _product(qq, table_ptr, 2 * IMAGE_ALONG + SINE, HALF)
    return a, b, c, d


@triton.jit
def folded_plane(
    a,
    b,
    c,
    d,
    table_ptr,  # [6, 2, 2, HALF, HALF] float16
    HALF: tl.constexpr,
):
    """whole_plane in four quadrants."""
    a = _across(a, table_ptr, INVERSE_ACROSS, COSINE, HALF)
    b = _across(b, table_ptr, INVERSE_ACROSS, COSINE, HALF)
    c = _across(c, table_ptr, INVERSE_ACROSS, SINE, HALF)
    d = _across(d, table_ptr, INVERSE_ACROSS, SINE, HALF)
    even = _product(a + c, table_ptr, 2 * INVERSE_ALONG + COSINE, HALF)
    even_ = _product(a - c, table_ptr, 2 * INVERSE_ALONG + COSINE, HALF)
    odd = _product(b + d, table_ptr, 2 * INVERSE_ALONG + SINE, HALF)
    odd_ = _product(b - d, table_ptr, 2 * INVERSE_ALONG + SINE, HALF)
    return even + odd, even - odd, even_ + odd_, even_ - odd_


@triton.jit
def centred(tile, LENGTH: tl.constexpr):
    """Subtract from every row the mean of two of its values, and keep that mean in the place of the first of the two.

    A row of equal values becomes its value and exact zeros, for the sum of two equal numbers is exact. The matrices of
    the image's stages undo it.
    """
    n = tl.arange(0, LENGTH)[None, :]
    pair = (n == LENGTH // 4) | (n == 3 * LENGTH // 4)
    mean = 0.5 * tl.sum(tl.where(pair, tile, 0.0), axis=1)[:, None]
    return tl.where(n == LENGTH // 4, mean, tile - mean)


@triton.jit
def _across(
    tile,
    table_ptr,  # [6, 2, 2, HALF, HALF] float16
    STAGE: tl.constexpr,
    BASIS: tl.constexpr,
    HALF: tl.constexpr,
):
    """matrix @ tile.T, computed like _product."""
    matrix, remainder = _matrix(table_ptr, 2 * STAGE + BASIS, HALF)
    leading = _leading_bits(tile)
    product = tl.dot(remainder, tl.trans(leading), input_precision="tf32")
    product = tl.dot(matrix, tl.trans(tile - leading), product, input_precision="tf32")
    return tl.dot(matrix, tl.trans(leading), product, input_precision="tf32")


@triton.jit
def _product(
    tile,
    table_ptr,  # [..., 2, LENGTH, LENGTH] float16
    INDEX: tl.constexpr,
    LENGTH: tl.constexpr,
):
    """tile @ matrix in float32's accuracy: TF32 products of the leading bits and remainders, small terms first.

    A remainder times a remainder is below float32's last place and left out.
    """
    matrix, remainder = _matrix(table_ptr, INDEX, LENGTH)
    leading = _leading_bits(tile)
    product = tl.dot(leading, remainder, input_precision="tf32")
    product = tl.dot(tile - leading, matrix, product, input_precision="tf32")
    return tl.dot(leading, matrix, product, input_precision="tf32")


@triton.jit
def _matrix(
    table_ptr,  # [..., 2, LENGTH, LENGTH] float16
    INDEX: tl.constexpr,
    LENGTH: tl.constexpr,
):
    """A matrix's leading bits and remainder.

    float16 holds TF32's 11 bits, and an operand read as 16 bits has the layout in which the result of one product is
    the operand of the next without moving data between threads.
    """
    index = tl.arange(0, LENGTH)
    pointers = table_ptr + INDEX * (2 * LENGTH * LENGTH) + (LENGTH * index[:, None] + index[None, :])
    return tl.load(pointers).to(tl.float32), tl.load(pointers + LENGTH * LENGTH).to(tl.float32)


@triton.jit
def _leading_bits(tile):
    """Nearest number of TF32's 11 significant bits. It leaves at most 12 bits, of which TF32 drops at most one."""
    bits = tile.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
