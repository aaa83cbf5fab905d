"""The folded discrete Fourier transform of small square planes, as matrix products on register tiles. README.md derives it.

A program holds PLANES blocks of BLOCK x BLOCK values as tiles [PLANES * BLOCK, BLOCK]. A block is one plane of SIZE x SIZE
folded to HALF x HALF, HALF = SIZE/2; at 16 pixels, where HALF is less than the smallest matrix product, it is a 2 x 2
arrangement of four planes, transformed by block-diagonal matrices.

The transform is taken about the middle of the image: exp(-2 pi i u (n + 1/2)/SIZE). That differs from the plain one by a
factor of modulus one per frequency, which cancels between the transform and its inverse. Its cosines are even and its sines
odd under n -> SIZE-1-n, so the sums and differences of mirrored pixels need HALF points each: cosines u = 0..HALF-1, sines
u = 1..HALF-1 with u = HALF in slot 0. Both axes folded, the spectrum of x is a = C pp C', b = C pq S', c = S qp C',
d = S qq S', and F(u,v) = (a-d) - i(b+c), F(u,-v) = (a+d) + i(b-c) for u, v > 0; on the axes F(0,v) = a - ib,
F(HALF,v) ~ c - id, F(u,0) = a - ic, F(u,HALF) ~ b - id; slot (0,0) holds four real frequencies.

Only products of a tall tile with a small matrix from the right occur, an axis at a time: warps share out the tile's rows and
read the same matrices. Tiles of pixels are transposed (rows are columns of the image), those of frequencies are not.
"""

import triton
import triton.language as tl

# The table of matrices is [basis, part]; triton_backend.transform_table writes it.
CENTRED_COSINE = tl.constexpr(0)  # the cosines, for input that `centred` has prepared
COSINE = tl.constexpr(1)
SINE = tl.constexpr(2)
WHOLE = tl.constexpr(0)
LEADING = tl.constexpr(1)
REMAINDER = tl.constexpr(2)


@triton.jit
def image_spectrum(
    x00,
    x01,
    x10,
    x11,
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    PLANES: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
):
    """a, b, c, d of an image's four quadrants, with exact zeros where an image that is constant along an axis has them.

    The phase factor is 1 where the spectrum is 0, and arbitrary where it is rounding noise instead, so zeros matter. An FFT
    gives them exactly, for it begins with differences of pixels, and so does this transform.
    """
    even, odd, even_, odd_ = x00 + x10, x00 - x10, x01 + x11, x01 - x11
    pp, pq, qp, qq = even + even_, even - even_, odd + odd_, odd - odd_
    pp = analyse(centred(pp, HALF, BLOCK, PLANES), table_ptr, CENTRED_COSINE, BLOCK, TENSOR_CORES)
    pq = analyse(centred(pq, HALF, BLOCK, PLANES), table_ptr, CENTRED_COSINE, BLOCK, TENSOR_CORES)
    qp = analyse(qp, table_ptr, SINE, BLOCK, TENSOR_CORES)
    qq = analyse(qq, table_ptr, SINE, BLOCK, TENSOR_CORES)
    pp, pq = transposed(pp, BLOCK, PLANES), transposed(pq, BLOCK, PLANES)
    qp, qq = transposed(qp, BLOCK, PLANES), transposed(qq, BLOCK, PLANES)
    a = analyse(centred(pp, HALF, BLOCK, PLANES), table_ptr, CENTRED_COSINE, BLOCK, TENSOR_CORES)
    b = analyse(pq, table_ptr, SINE, BLOCK, TENSOR_CORES)
    c = analyse(centred(qp, HALF, BLOCK, PLANES), table_ptr, CENTRED_COSINE, BLOCK, TENSOR_CORES)
    d = analyse(qq, table_ptr, SINE, BLOCK, TENSOR_CORES)
    return a, b, c, d


@triton.jit
def spectrum(
    x00,
    x01,
    x10,
    x11,
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32
    BLOCK: tl.constexpr,
    PLANES: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
):
    """a, b, c, d of four quadrants whose zeros do not matter."""
    even, odd, even_, odd_ = x00 + x10, x00 - x10, x01 + x11, x01 - x11
    pp = analyse(even + even_, table_ptr, COSINE, BLOCK, TENSOR_CORES)
    pq = analyse(even - even_, table_ptr, COSINE, BLOCK, TENSOR_CORES)
    qp = analyse(odd + odd_, table_ptr, SINE, BLOCK, TENSOR_CORES)
    qq = analyse(odd - odd_, table_ptr, SINE, BLOCK, TENSOR_CORES)
    a = analyse(transposed(pp, BLOCK, PLANES), table_ptr, COSINE, BLOCK, TENSOR_CORES)
    b = analyse(transposed(pq, BLOCK, PLANES), table_ptr, SINE, BLOCK, TENSOR_CORES)
    c = analyse(transposed(qp, BLOCK, PLANES), table_ptr, COSINE, BLOCK, TENSOR_CORES)
    d = analyse(transposed(qq, BLOCK, PLANES), table_ptr, SINE, BLOCK, TENSOR_CORES)
    return a, b, c, d


@triton.jit
def quadrants(
    a,
    b,
    c,
    d,
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32
    BLOCK: tl.constexpr,
    PLANES: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
):
    """Inverse of the transform, times SIZE^2, of a spectrum whose conjugate pairs have been added up."""
    a = synthesise(a, table_ptr, COSINE, BLOCK, TENSOR_CORES)
    b = synthesise(b, table_ptr, SINE, BLOCK, TENSOR_CORES)
    c = synthesise(c, table_ptr, COSINE, BLOCK, TENSOR_CORES)
    d = synthesise(d, table_ptr, SINE, BLOCK, TENSOR_CORES)
    even = synthesise(transposed(a + b, BLOCK, PLANES), table_ptr, COSINE, BLOCK, TENSOR_CORES)
    even_ = synthesise(transposed(a - b, BLOCK, PLANES), table_ptr, COSINE, BLOCK, TENSOR_CORES)
    odd = synthesise(transposed(c + d, BLOCK, PLANES), table_ptr, SINE, BLOCK, TENSOR_CORES)
    odd_ = synthesise(transposed(c - d, BLOCK, PLANES), table_ptr, SINE, BLOCK, TENSOR_CORES)
    return even + odd, even_ + odd_, even - odd, even_ - odd_


@triton.jit
def complex_pairs(a, b, c, d, u, v):
    """r1, i1, r2, i2 with F(u,v) = r1 - i i1 and F(u,-v) = r2 + i i2.

    On an axis these are the two frequencies kept there, up to a constant factor of modulus one: F(0,v) and F(HALF,v), or
    F(u,0) and F(u,HALF). In slot (0,0) r1 and r2 are the real F(0,0) and F(HALF,HALF), and i1 = i2 = 0 leaves b and c out.
    """
    of_u, of_v = (u != 0).to(tl.float32), (v != 0).to(tl.float32)
    off_axis = of_u * of_v
    return a - off_axis * d, of_v * b + of_u * c, d + off_axis * a, of_u * b - of_v * c


@triton.jit
def conjugate_sums(r1, i1, r2, i2, u, v):
    """The adjoint of complex_pairs: a, b, c, d of a spectrum whose conjugate pairs are added up; b = c = 0 in slot (0,0)."""
    of_u, of_v = (u != 0).to(tl.float32), (v != 0).to(tl.float32)
    off_axis = of_u * of_v
    return r1 + off_axis * r2, of_v * i1 + of_u * i2, of_u * i1 - of_v * i2, r2 - off_axis * r1


@triton.jit
def transposed(tile, BLOCK: tl.constexpr, PLANES: tl.constexpr):
    """Every block of a tile transposed."""
    if PLANES == 1:
        return tl.trans(tile)
    else:
        blocks = tl.permute(tl.reshape(tile, [PLANES, BLOCK, BLOCK]), [0, 2, 1])
        return tl.reshape(blocks, [PLANES * BLOCK, BLOCK])


@triton.jit
def centred(tile, HALF: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr):
    """Subtract from every row the mean of two of its values, and keep that mean in the place of the first of the two.

    A row of equal values becomes its value and exact zeros, for the sum of two equal numbers is exact.
    """
    if BLOCK == HALF:
        n = tl.arange(0, HALF)[None, :]
        pair = (n == HALF // 4) | (n == 3 * HALF // 4)
        mean = 0.5 * tl.sum(tl.where(pair, tile, 0.0), axis=1)[:, None]
        return tl.where(n == HALF // 4, mean, tile - mean)
    else:
        n = tl.arange(0, HALF)[None, None, :]
        pair = (n == HALF // 4) | (n == 3 * HALF // 4)
        planes = tl.reshape(tile, [PLANES * BLOCK, BLOCK // HALF, HALF])
        mean = 0.5 * tl.sum(tl.where(pair, planes, 0.0), axis=2)[:, :, None]
        return tl.reshape(tl.where(n == HALF // 4, mean, planes - mean), [PLANES * BLOCK, BLOCK])


@triton.jit
def analyse(
    tile,
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32
    BASIS: tl.constexpr,
    BLOCK: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
):
    """From pixels to frequencies along the rows of a tile."""
    return _product(tile, table_ptr, BASIS, True, BLOCK, TENSOR_CORES)


@triton.jit
def synthesise(
    tile,
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32
    BASIS: tl.constexpr,
    BLOCK: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
):
    """From frequencies to pixels along the rows of a tile."""
    return _product(tile, table_ptr, BASIS, False, BLOCK, TENSOR_CORES)


@triton.jit
def _product(
    tile,
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32
    BASIS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
):
    """tile @ matrix in float32's accuracy; on tensor cores in three TF32 passes, the smallest terms first."""
    if TENSOR_CORES:
        leading = _leading_bits(tile)
        matrix = _matrix(table_ptr, BASIS, LEADING, TRANSPOSED, BLOCK)
        remainder = _matrix(table_ptr, BASIS, REMAINDER, TRANSPOSED, BLOCK)
        product = tl.dot(tile - leading, matrix, input_precision="tf32")
        product = tl.dot(leading, remainder, product, input_precision="tf32")
        return tl.dot(leading, matrix, product, input_precision="tf32")
    else:
        return tl.dot(tile, _matrix(table_ptr, BASIS, WHOLE, TRANSPOSED, BLOCK), input_precision="ieee")


@triton.jit
def _matrix(
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32
    BASIS: tl.constexpr,
    PART: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.arange(0, BLOCK)
    if TRANSPOSED:
        offsets = index[:, None] + BLOCK * index[None, :]
    else:
        offsets = BLOCK * index[:, None] + index[None, :]
    return tl.load(table_ptr + (3 * BASIS + PART) * BLOCK * BLOCK + offsets)


@triton.jit
def _leading_bits(tile):
    """Nearest number with TF32's 11 significant bits. What is left of tile has at most 12, of which TF32 drops at most one."""
    bits = tile.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
