"""The amplitude mix of 16, 32 and 64 pixel squares: forward and backward, each in one launch. README.md derives it.

A program holds PLANES blocks of BLOCK x BLOCK values. A block is one plane folded to HALF x HALF, HALF = SIZE/2; at 16
pixels, where HALF is less than the smallest matrix product, it is a 2 x 2 arrangement of four planes, transformed by
block-diagonal matrices.

The transform is taken about the middle of the image: exp(-2 pi i u (n + 1/2)/SIZE). That differs from the plain one by a
factor of modulus one per frequency, which cancels between the transform and its inverse. Its cosines are even and its sines
odd under n -> SIZE-1-n, so the sums and differences of mirrored pixels need HALF points each: cosines u = 0..HALF-1, sines
u = 1..HALF-1 with u = HALF in slot 0. Both axes folded, the plane's spectrum is a = C pp C', b = C pq S', c = S qp C',
d = S qq S', and F(u,v) = (a-d) - i(b+c), F(u,-v) = (a+d) + i(b-c) for u, v > 0; on the axes F(0,v) = a - ib,
F(HALF,v) ~ c - id, F(u,0) = a - ic, F(u,HALF) ~ b - id; slot (0,0) holds four real frequencies.
"""

import triton
import triton.language as tl

# The table of matrices, [basis, part]; triton_backend.transform_table writes it.
CENTRED_COSINE = tl.constexpr(0)  # the cosines, for input that _centre_rows or _centre_columns has prepared
COSINE = tl.constexpr(1)
SINE = tl.constexpr(2)
WHOLE = tl.constexpr(0)
LEADING = tl.constexpr(1)
REMAINDER = tl.constexpr(2)

# |X|^2 below float32's normal range counts as X = 0, for rsqrt takes it as zero.
SMALLEST_NORMAL = tl.constexpr(1.1754944e-38)


@triton.jit
def mix_forward(
    images_ptr,  # [planes/channels, channels, SIZE, SIZE], strides images_stride_*
    amplitude_ptr,  # same shape, strides amplitude_stride_*, frequencies in FFT order
    lam_ptr,  # [planes/channels], stride lam_stride
    crop_ptr,  # [planes/channels, 2] int32 or int64, strides crop_stride_*; read if HAS_CROP
    flip_ptr,  # [planes/channels] bool, stride flip_stride; read if HAS_FLIP
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32, contiguous
    out_ptr,  # shape of images, strides out_stride_*
    planes,
    channels,
    images_stride_b,
    images_stride_c,
    images_stride_h,
    images_stride_w,
    amplitude_stride_b,
    amplitude_stride_c,
    amplitude_stride_h,
    amplitude_stride_w,
    out_stride_b,
    out_stride_c,
    out_stride_h,
    out_stride_w,
    lam_stride,
    crop_stride_b,
    crop_stride_d,
    flip_stride,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PLANES: tl.constexpr,
    HAS_CROP: tl.constexpr,
    HAS_FLIP: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
):
    HALF: tl.constexpr = SIZE // 2
    n, m, plane = _pixel_tile(HALF, BLOCK, PLANES)
    valid = plane < planes
    image, channel = (plane // channels).to(tl.int64), (plane % channels).to(tl.int64)
    lam = tl.load(lam_ptr + image * lam_stride, mask=valid, other=0.0).to(tl.float32)
    tl.device_assert((lam >= 0) & (lam <= 1), "amplitude_mix: lam is outside [0, 1]")

    base = images_ptr + image * images_stride_b + channel * images_stride_c
    x00, x01, x10, x11 = _load_four(
        base, n, SIZE - 1 - n, m, SIZE - 1 - m, images_stride_h, images_stride_w, valid, BLOCK, PLANES * BLOCK
    )
    a, b, c, d = _image_spectrum(x00, x01, x10, x11, table_ptr, HALF, BLOCK, PLANES, TENSOR_CORES)
    r1, i1, r2, i2 = _phases(a, b, c, d, table_ptr, HALF, BLOCK, PLANES)
    g00, g01, g10, g11 = _generated(
        r1, i1, r2, i2, amplitude_ptr, planes, channels,
        amplitude_stride_b, amplitude_stride_c, amplitude_stride_h, amplitude_stride_w,
        table_ptr, SIZE, BLOCK, PLANES, TENSOR_CORES,
    )  # fmt: skip
    x00, x01 = _clip(_blend(x00, g00, lam)), _clip(_blend(x01, g01, lam))
    x10, x11 = _clip(_blend(x10, g10, lam)), _clip(_blend(x11, g11, lam))

    base = out_ptr + image * out_stride_b + channel * out_stride_c
    dy, dx, flip = _crop_and_flip(
        crop_ptr, flip_ptr, image, valid, crop_stride_b, crop_stride_d, flip_stride, SIZE, HAS_CROP, HAS_FLIP
    )
    AUGMENTED: tl.constexpr = HAS_CROP or HAS_FLIP
    _store(base, x00, n, m, dy, dx, flip, valid, out_stride_h, out_stride_w, SIZE, AUGMENTED)
    _store(base, x01, n, SIZE - 1 - m, dy, dx, flip, valid, out_stride_h, out_stride_w, SIZE, AUGMENTED)
    _store(base, x10, SIZE - 1 - n, m, dy, dx, flip, valid, out_stride_h, out_stride_w, SIZE, AUGMENTED)
    _store(base, x11, SIZE - 1 - n, SIZE - 1 - m, dy, dx, flip, valid, out_stride_h, out_stride_w, SIZE, AUGMENTED)


@triton.jit
def mix_backward_amplitude(
    grad_ptr,  # [planes/channels, channels, SIZE, SIZE], strides grad_stride_*: gradient to the cropped and flipped output
    images_ptr,  # same shape, strides images_stride_*
    amplitude_ptr,  # same shape, strides amplitude_stride_*
    lam_ptr,  # [planes/channels], stride lam_stride
    crop_ptr,  # [planes/channels, 2] int32 or int64, strides crop_stride_*; read if HAS_CROP
    flip_ptr,  # [planes/channels] bool, stride flip_stride; read if HAS_FLIP
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32, contiguous
    out_ptr,  # shape of amplitude, strides out_stride_*: gradient to amplitude
    planes,
    channels,
    grad_stride_b,
    grad_stride_c,
    grad_stride_h,
    grad_stride_w,
    images_stride_b,
    images_stride_c,
    images_stride_h,
    images_stride_w,
    amplitude_stride_b,
    amplitude_stride_c,
    amplitude_stride_h,
    amplitude_stride_w,
    out_stride_b,
    out_stride_c,
    out_stride_h,
    out_stride_w,
    lam_stride,
    crop_stride_b,
    crop_stride_d,
    flip_stride,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PLANES: tl.constexpr,
    HAS_CROP: tl.constexpr,
    HAS_FLIP: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
):
    HALF: tl.constexpr = SIZE // 2
    n, m, plane = _pixel_tile(HALF, BLOCK, PLANES)
    valid = plane < planes
    image, channel = (plane // channels).to(tl.int64), (plane % channels).to(tl.int64)
    lam = tl.load(lam_ptr + image * lam_stride, mask=valid, other=0.0).to(tl.float32)

    base = images_ptr + image * images_stride_b + channel * images_stride_c
    x00, x01, x10, x11 = _load_four(
        base, n, SIZE - 1 - n, m, SIZE - 1 - m, images_stride_h, images_stride_w, valid, BLOCK, PLANES * BLOCK
    )
    a, b, c, d = _image_spectrum(x00, x01, x10, x11, table_ptr, HALF, BLOCK, PLANES, TENSOR_CORES)
    r1, i1, r2, i2 = _phases(a, b, c, d, table_ptr, HALF, BLOCK, PLANES)
    g00, g01, g10, g11 = _generated(
        r1, i1, r2, i2, amplitude_ptr, planes, channels,
        amplitude_stride_b, amplitude_stride_c, amplitude_stride_h, amplitude_stride_w,
        table_ptr, SIZE, BLOCK, PLANES, TENSOR_CORES,
    )  # fmt: skip
    kept00, kept01 = _kept(_blend(x00, g00, lam)), _kept(_blend(x01, g01, lam))
    kept10, kept11 = _kept(_blend(x10, g10, lam)), _kept(_blend(x11, g11, lam))

    base = grad_ptr + image * grad_stride_b + channel * grad_stride_c
    dy, dx, flip = _crop_and_flip(
        crop_ptr, flip_ptr, image, valid, crop_stride_b, crop_stride_d, flip_stride, SIZE, HAS_CROP, HAS_FLIP
    )
    AUGMENTED: tl.constexpr = HAS_CROP or HAS_FLIP
    n_, m_ = SIZE - 1 - n, SIZE - 1 - m
    g00 = _load_grad(base, n, m, dy, dx, flip, valid & kept00, grad_stride_h, grad_stride_w, SIZE, AUGMENTED)
    g01 = _load_grad(base, n, m_, dy, dx, flip, valid & kept01, grad_stride_h, grad_stride_w, SIZE, AUGMENTED)
    g10 = _load_grad(base, n_, m, dy, dx, flip, valid & kept10, grad_stride_h, grad_stride_w, SIZE, AUGMENTED)
    g11 = _load_grad(base, n_, m_, dy, dx, flip, valid & kept11, grad_stride_h, grad_stride_w, SIZE, AUGMENTED)
    a, b, c, d = _spectrum(g00, g01, g10, g11, table_ptr, BLOCK, PLANES, TENSOR_CORES)

    u, v, plane = _frequency_tile(HALF, BLOCK, PLANES)
    first_row, first_column = u == 0, v == 0
    valid = (plane < planes) & (u >= 0) & (v >= 0)
    image, channel = (plane // channels).to(tl.int64), (plane % channels).to(tl.int64)
    scale = tl.load(lam_ptr + image * lam_stride, mask=plane < planes, other=0.0).to(tl.float32) * (1.0 / (SIZE * SIZE))
    gr1, gi1, gr2, gi2 = _pair(a, b, c, d, first_row, first_column)
    gr1, gi1, gr2, gi2 = r1 * gr1 * scale, i1 * gi1 * scale, r2 * gr2 * scale, i2 * gi2 * scale
    # Re(conj(U) G) of F(u,v) and of F(u,-v); the same value belongs to the negated frequency
    straight, crossed = gr1 + gi1, gr2 + gi2
    corner = first_row & first_column
    base = out_ptr + image * out_stride_b + channel * out_stride_c
    u_, v_ = _negated(u, HALF), _negated(v, HALF)
    pp = tl.where(corner, gr1, straight)
    pn = tl.where(corner, gi1, tl.where(first_row, straight, crossed))
    np = tl.where(corner, gr2, tl.where(first_column, straight, crossed))
    nn = tl.where(corner, gi2, tl.where(first_row | first_column, crossed, straight))
    element = out_ptr.dtype.element_ty
    tl.store(base + u * out_stride_h + v * out_stride_w, pp.to(element), mask=valid)
    tl.store(base + u * out_stride_h + v_ * out_stride_w, pn.to(element), mask=valid)
    tl.store(base + u_ * out_stride_h + v * out_stride_w, np.to(element), mask=valid)
    tl.store(base + u_ * out_stride_h + v_ * out_stride_w, nn.to(element), mask=valid)


@triton.jit
def _pixel_tile(HALF: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr):
    """Row, column and plane of the tile [BLOCK, PLANES * BLOCK] of folded pixels."""
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, PLANES * BLOCK)[None, :]
    ACROSS: tl.constexpr = BLOCK // HALF
    plane = tl.program_id(0) * (PLANES * ACROSS * ACROSS) + column // HALF
    if ACROSS > 1:
        plane = (tl.program_id(0) * PLANES * ACROSS + column // BLOCK * ACROSS + row // HALF) * ACROSS + column // HALF % ACROSS
    return (row % HALF).to(tl.int64), (column % HALF).to(tl.int64), plane


@triton.jit
def _frequency_tile(HALF: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr):
    """Row, column and plane of the tile [BLOCK * PLANES, BLOCK] of folded frequencies: _pixel_tile, reshaped."""
    row = tl.arange(0, BLOCK * PLANES)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    ACROSS: tl.constexpr = BLOCK // HALF
    plane = tl.program_id(0) * (PLANES * ACROSS * ACROSS) + row % PLANES
    if ACROSS > 1:
        plane = (tl.program_id(0) * PLANES * ACROSS + row % PLANES * ACROSS + row // PLANES // HALF) * ACROSS + column // HALF
    return (row // PLANES % HALF).to(tl.int64), (column % HALF).to(tl.int64), plane
