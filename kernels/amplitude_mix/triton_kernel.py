"""The amplitude mix of 16, 32 and 64 pixel squares: forward and backward, each in one launch.

Planes are held as tiles of folded pixels [BLOCK, PLANES * BLOCK], one per quadrant of the image, or of folded frequencies
[BLOCK * PLANES, BLOCK]; `triton_transform` explains the folding, README.md derives it.
"""

import triton
import triton.language as tl

from kernels.amplitude_mix.triton_transform import (
    COSINE,
    SINE,
    WHOLE,
    complex_pairs,
    conjugate_sums,
    image_spectrum,
    quadrants,
    spectrum,
)

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
    m, n, image, channel, valid = _tile(planes, channels, True, HALF, BLOCK, PLANES)
    n_, m_ = SIZE - 1 - n, SIZE - 1 - m
    base = images_ptr + image * images_stride_b + channel * images_stride_c
    x00 = _load(base + n * images_stride_h + m * images_stride_w, valid)
    x01 = _load(base + n * images_stride_h + m_ * images_stride_w, valid)
    x10 = _load(base + n_ * images_stride_h + m * images_stride_w, valid)
    x11 = _load(base + n_ * images_stride_h + m_ * images_stride_w, valid)
    lam = tl.load(lam_ptr + image * lam_stride, mask=valid, other=0.0).to(tl.float32)
    tl.device_assert((lam >= 0) & (lam <= 1), "amplitude_mix: lam is outside [0, 1]")
    dc = tl.load(amplitude_ptr + image * amplitude_stride_b + channel * amplitude_stride_c, mask=valid, other=0.0)

    a, b, c, d = image_spectrum(x00, x01, x10, x11, table_ptr, HALF, BLOCK, PLANES, TENSOR_CORES)
    u, v, image_, channel_, valid_ = _tile(planes, channels, False, HALF, BLOCK, PLANES)
    r1, i1, r2, i2 = _phase_factors(a, b, c, d, u, v, table_ptr, BLOCK)
    base = amplitude_ptr + image_ * amplitude_stride_b + channel_ * amplitude_stride_c
    r1, i1, r2, i2 = _times_amplitude(
        r1, i1, r2, i2, u, v, base, amplitude_stride_h, amplitude_stride_w, valid_, HALF, SIZE
    )
    a, b, c, d = conjugate_sums(r1, i1, r2, i2, u == 0, v == 0)
    g00, g01, g10, g11 = quadrants(a, b, c, d, table_ptr, BLOCK, PLANES, TENSOR_CORES)

    dy, dx, flip = _crop_and_flip(
        crop_ptr, flip_ptr, image, valid, crop_stride_b, crop_stride_d, flip_stride, SIZE, HAS_CROP, HAS_FLIP
    )
    AUGMENTED: tl.constexpr = HAS_CROP or HAS_FLIP
    base = out_ptr + image * out_stride_b + channel * out_stride_c
    x00, x01 = _blend(x00, g00, dc, lam, SIZE), _blend(x01, g01, dc, lam, SIZE)
    x10, x11 = _blend(x10, g10, dc, lam, SIZE), _blend(x11, g11, dc, lam, SIZE)
    _store_clipped(x00, base, n, m, out_stride_h, out_stride_w, valid, dy, dx, flip, SIZE, AUGMENTED)
    _store_clipped(x01, base, n, m_, out_stride_h, out_stride_w, valid, dy, dx, flip, SIZE, AUGMENTED)
    _store_clipped(x10, base, n_, m, out_stride_h, out_stride_w, valid, dy, dx, flip, SIZE, AUGMENTED)
    _store_clipped(x11, base, n_, m_, out_stride_h, out_stride_w, valid, dy, dx, flip, SIZE, AUGMENTED)


@triton.jit
def mix_backward_amplitude(
    grad_ptr,  # [planes/channels, channels, SIZE, SIZE], strides grad_stride_*: gradient to mix_forward's out
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
    m, n, image, channel, valid = _tile(planes, channels, True, HALF, BLOCK, PLANES)
    n_, m_ = SIZE - 1 - n, SIZE - 1 - m
    base = images_ptr + image * images_stride_b + channel * images_stride_c
    x00 = _load(base + n * images_stride_h + m * images_stride_w, valid)
    x01 = _load(base + n * images_stride_h + m_ * images_stride_w, valid)
    x10 = _load(base + n_ * images_stride_h + m * images_stride_w, valid)
    x11 = _load(base + n_ * images_stride_h + m_ * images_stride_w, valid)
    lam = tl.load(lam_ptr + image * lam_stride, mask=valid, other=0.0).to(tl.float32)
    dc = tl.load(amplitude_ptr + image * amplitude_stride_b + channel * amplitude_stride_c, mask=valid, other=0.0)

    a, b, c, d = image_spectrum(x00, x01, x10, x11, table_ptr, HALF, BLOCK, PLANES, TENSOR_CORES)
    u, v, image_, channel_, valid_ = _tile(planes, channels, False, HALF, BLOCK, PLANES)
    r1, i1, r2, i2 = _phase_factors(a, b, c, d, u, v, table_ptr, BLOCK)
    base = amplitude_ptr + image_ * amplitude_stride_b + channel_ * amplitude_stride_c
    a, b, c, d = _times_amplitude(
        r1, i1, r2, i2, u, v, base, amplitude_stride_h, amplitude_stride_w, valid_, HALF, SIZE
    )
    a, b, c, d = conjugate_sums(a, b, c, d, u == 0, v == 0)
    g00, g01, g10, g11 = quadrants(a, b, c, d, table_ptr, BLOCK, PLANES, TENSOR_CORES)

    dy, dx, flip = _crop_and_flip(
        crop_ptr, flip_ptr, image, valid, crop_stride_b, crop_stride_d, flip_stride, SIZE, HAS_CROP, HAS_FLIP
    )
    x00, x01 = _blend(x00, g00, dc, lam, SIZE), _blend(x01, g01, dc, lam, SIZE)
    x10, x11 = _blend(x10, g10, dc, lam, SIZE), _blend(x11, g11, dc, lam, SIZE)
    base = grad_ptr + image * grad_stride_b + channel * grad_stride_c
    g00 = _load_grad(x00, base, n, m, grad_stride_h, grad_stride_w, valid, dy, dx, flip, SIZE)
    g01 = _load_grad(x01, base, n, m_, grad_stride_h, grad_stride_w, valid, dy, dx, flip, SIZE)
    g10 = _load_grad(x10, base, n_, m, grad_stride_h, grad_stride_w, valid, dy, dx, flip, SIZE)
    g11 = _load_grad(x11, base, n_, m_, grad_stride_h, grad_stride_w, valid, dy, dx, flip, SIZE)

    a, b, c, d = spectrum(g00, g01, g10, g11, table_ptr, BLOCK, PLANES, TENSOR_CORES)
    a, b, c, d = complex_pairs(a, b, c, d, u == 0, v == 0)
    weight = tl.load(lam_ptr + image_ * lam_stride, mask=valid_, other=0.0).to(tl.float32) / (SIZE * SIZE)
    base = out_ptr + image_ * out_stride_b + channel_ * out_stride_c
    _store_projections(
        r1 * a * weight, i1 * b * weight, r2 * c * weight, i2 * d * weight,
        u, v, base, out_stride_h, out_stride_w, valid_, HALF, SIZE,
    )  # fmt: skip


@triton.jit
def _tile(planes, channels, PIXELS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr):
    """Indices along the rows and columns of a tile [PLANES * BLOCK, BLOCK], and its image, channel and validity.

    The last three are scalars where the program holds a single plane.
    """
    row, column = tl.arange(0, PLANES * BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    if BLOCK == HALF:
        plane = tl.program_id(0) * PLANES
        if PLANES > 1:
            plane += row // BLOCK
    else:
        across, down = column // HALF, row % BLOCK // HALF
        plane = 4 * (tl.program_id(0) * PLANES + row // BLOCK) + (2 * across + down if PIXELS else 2 * down + across)
    image, channel = (plane // channels).to(tl.int64), (plane % channels).to(tl.int64)
    return row % HALF, column % HALF, image, channel, plane < planes


@triton.jit
def _load(pointers, valid):
    return tl.load(pointers, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def _phase_factors(
    a,
    b,
    c,
    d,
    u,
    v,
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32
    BLOCK: tl.constexpr,
):
    """complex_pairs of X/|X|, and of the centred transform's 1 where X = 0."""
    first_row, first_column = u == 0, v == 0
    # The plain transform of a unit pulse at pixel (0, 0) is 1 everywhere, so its centred transform stands for U = 1.
    cosine_u = tl.load(table_ptr + (3 * COSINE + WHOLE) * BLOCK * BLOCK + u * BLOCK)
    cosine_v = tl.load(table_ptr + (3 * COSINE + WHOLE) * BLOCK * BLOCK + v * BLOCK)
    sine_u = tl.load(table_ptr + (3 * SINE + WHOLE) * BLOCK * BLOCK + u * BLOCK)
    sine_v = tl.load(table_ptr + (3 * SINE + WHOLE) * BLOCK * BLOCK + v * BLOCK)
    one_r1, one_i1, one_r2, one_i2 = complex_pairs(
        cosine_u * cosine_v, cosine_u * sine_v, sine_u * cosine_v, sine_u * sine_v, first_row, first_column
    )
    r1, i1, r2, i2 = complex_pairs(a, b, c, d, first_row, first_column)
    square1, square2 = r1 * r1 + i1 * i1, r2 * r2 + i2 * i2
    zero1, zero2 = square1 < SMALLEST_NORMAL, square2 < SMALLEST_NORMAL
    inverse1, inverse2 = tl.rsqrt(square1), tl.rsqrt(square2)
    corner = first_row & first_column
    return (
        tl.where(corner, _sign(r1), tl.where(zero1, one_r1, r1 * inverse1)),
        tl.where(corner, _sign(i1), tl.where(zero1, one_i1, i1 * inverse1)),
        tl.where(corner, _sign(r2), tl.where(zero2, one_r2, r2 * inverse2)),
        tl.where(corner, _sign(i2), tl.where(zero2, one_i2, i2 * inverse2)),
    )


@triton.jit
def _sign(real):
    """X/|X| of a real frequency."""
    return tl.where(real < 0, -1.0, 1.0)


@triton.jit
def _times_amplitude(
    r1,
    i1,
    r2,
    i2,
    u,
    v,
    base,  # tile of pointers to the planes' DC in amplitude
    stride_h,
    stride_w,
    valid,
    HALF: tl.constexpr,
    SIZE: tl.constexpr,
):
    """complex_pairs of A_G U, each times 2 off slot (0,0), without its DC, which `_blend` adds.

    The mean A[k] + A[-k] over a conjugate pair makes the inverse transform real.
    """
    first_row, first_column = u == 0, v == 0
    u_, v_ = tl.where(first_row, HALF, SIZE - u), tl.where(first_column, HALF, SIZE - v)
    pp = _load(base + u * stride_h + v * stride_w, valid)
    pn = _load(base + u * stride_h + v_ * stride_w, valid)
    np = _load(base + u_ * stride_h + v * stride_w, valid)
    nn = _load(base + u_ * stride_h + v_ * stride_w, valid)
    corner = first_row & first_column
    straight = pp + tl.where(first_row, pn, tl.where(first_column, np, nn))
    crossed = tl.where(first_row, np, pn) + tl.where(first_row | first_column, nn, np)
    return (
        tl.where(corner, pp * r1 - pp, straight * r1),
        tl.where(corner, pn, straight) * i1,
        tl.where(corner, np, crossed) * r2,
        tl.where(corner, nn, crossed) * i2,
    )


@triton.jit
def _store_projections(
    s1,
    t1,
    s2,
    t2,
    u,
    v,
    base,  # tile of pointers to the planes' DC in the gradient
    stride_h,
    stride_w,
    valid,
    HALF: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Store Re(conj(U) G) = s1 + t1 of F(u,v) and s2 + t2 of F(u,-v), each at its frequency and at the negated one."""
    first_row, first_column = u == 0, v == 0
    u_, v_ = tl.where(first_row, HALF, SIZE - u), tl.where(first_column, HALF, SIZE - v)
    corner = first_row & first_column
    straight, crossed = s1 + t1, s2 + t2
    pp = tl.where(corner, s1, straight)
    pn = tl.where(corner, t1, tl.where(first_row, straight, crossed))
    np = tl.where(corner, s2, tl.where(first_column, straight, crossed))
    nn = tl.where(corner, t2, tl.where(first_row | first_column, crossed, straight))
    everywhere = valid & (u >= 0) & (v >= 0)
    element = base.dtype.element_ty
    tl.store(base + u * stride_h + v * stride_w, pp.to(element), mask=everywhere)
    tl.store(base + u * stride_h + v_ * stride_w, pn.to(element), mask=everywhere)
    tl.store(base + u_ * stride_h + v * stride_w, np.to(element), mask=everywhere)
    tl.store(base + u_ * stride_h + v_ * stride_w, nn.to(element), mask=everywhere)


@triton.jit
def _blend(x, generated, dc, lam, SIZE: tl.constexpr):
    return (1.0 - lam) * x + lam * ((generated + dc) * (1.0 / (SIZE * SIZE)))


@triton.jit
def _crop_and_flip(
    crop_ptr,  # [B, 2] int32 or int64
    flip_ptr,  # [B] bool
    image,
    valid,
    crop_stride_b,
    crop_stride_d,
    flip_stride,
    SIZE: tl.constexpr,
    HAS_CROP: tl.constexpr,
    HAS_FLIP: tl.constexpr,
):
    """dy, dx and flip per plane. An offset past the image moves all of it out, however far, so it is cut to SIZE."""
    dy, dx = tl.zeros_like(image), tl.zeros_like(image)
    flip = image < 0
    if HAS_CROP:
        dy = tl.load(crop_ptr + image * crop_stride_b, mask=valid, other=0).to(tl.int64)
        dx = tl.load(crop_ptr + image * crop_stride_b + crop_stride_d, mask=valid, other=0).to(tl.int64)
        dy, dx = tl.minimum(tl.maximum(dy, -SIZE), SIZE), tl.minimum(tl.maximum(dx, -SIZE), SIZE)
    if HAS_FLIP:
        flip = tl.load(flip_ptr + image * flip_stride, mask=valid, other=0) != 0
    return dy, dx, flip


@triton.jit
def _output_pixel(y, x, dy, dx, flip, SIZE: tl.constexpr):
    """Where pixel (y, x) of the mixed image goes, and whether that is inside the output."""
    y, x = y - dy, x - dx
    x = tl.where(flip, SIZE - 1 - x, x)
    return y, x, (y >= 0) & (y < SIZE) & (x >= 0) & (x < SIZE)


@triton.jit
def _store_clipped(
    value,
    base,  # tile of pointers to the planes of out
    y,
    x,
    stride_h,
    stride_w,
    valid,
    dy,
    dx,
    flip,
    SIZE: tl.constexpr,
    AUGMENTED: tl.constexpr,
):
    everywhere = valid & (y >= 0) & (x >= 0)
    value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    value = tl.minimum(value, 1.0, propagate_nan=tl.PropagateNan.ALL).to(base.dtype.element_ty)
    if AUGMENTED:
        # A pixel goes to at most one place, so the output pixels without a source are not written twice.
        out_y, out_x, inside = _output_pixel(y, x, dy, dx, flip, SIZE)
        tl.store(base + out_y * stride_h + out_x * stride_w, value, mask=everywhere & inside)
        source_y, source_x = y + dy, tl.where(flip, SIZE - 1 - x, x) + dx
        outside = (source_y < 0) | (source_y >= SIZE) | (source_x < 0) | (source_x >= SIZE)
        tl.store(base + y * stride_h + x * stride_w, tl.zeros_like(value), mask=everywhere & outside)
    else:
        tl.store(base + y * stride_h + x * stride_w, value, mask=everywhere)


@triton.jit
def _load_grad(
    before_clip,
    base,  # tile of pointers to the planes of grad
    y,
    x,
    stride_h,
    stride_w,
    valid,
    dy,
    dx,
    flip,
    SIZE: tl.constexpr,
):
    """Gradient to the value before the clip; the clip's bounds count as inside."""
    y, x, inside = _output_pixel(y, x, dy, dx, flip, SIZE)
    kept = (before_clip >= 0) & (before_clip <= 1)
    return _load(base + y * stride_h + x * stride_w, valid & inside & kept)
