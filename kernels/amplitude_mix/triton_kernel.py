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

# The phase factor is that of X + PULSE: 1 where X = 0, and unchanged elsewhere, |X| being above 1e-8 or so if not 0.
PULSE = tl.constexpr(1e-15)


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
    a, b, c, d = _generated_spectrum(
        r1, i1, r2, i2, u, v, base, amplitude_stride_h, amplitude_stride_w, valid_, SIZE
    )
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
    a, b, c, d = _generated_spectrum(
        r1, i1, r2, i2, u, v, base, amplitude_stride_h, amplitude_stride_w, valid_, SIZE
    )
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
    weight = tl.load(lam_ptr + image_ * lam_stride, mask=valid_, other=0.0).to(tl.float32) * (1.0 / (SIZE * SIZE))
    base = out_ptr + image_ * out_stride_b + channel_ * out_stride_c
    _store_projections(
        r1, i1, r2, i2, a, b, c, d, weight, u, v, base, out_stride_h, out_stride_w, valid_, SIZE
    )


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
    """complex_pairs of X/|X|, 1 where X = 0; in slot (0,0) i1 and i2 are the signs of b and c."""
    # A unit pulse at pixel (0, 0) has the plain transform 1; its centred one is the matrices' first columns.
    cosine_u = PULSE * tl.load(table_ptr + (3 * COSINE + WHOLE) * BLOCK * BLOCK + u * BLOCK)
    sine_u = PULSE * tl.load(table_ptr + (3 * SINE + WHOLE) * BLOCK * BLOCK + u * BLOCK)
    cosine_v = tl.load(table_ptr + (3 * COSINE + WHOLE) * BLOCK * BLOCK + v * BLOCK)
    sine_v = tl.load(table_ptr + (3 * SINE + WHOLE) * BLOCK * BLOCK + v * BLOCK)
    a, b, c, d = a + cosine_u * cosine_v, b + cosine_u * sine_v, c + sine_u * cosine_v, d + sine_u * sine_v
    r1, i1, r2, i2 = complex_pairs(a, b, c, d, u, v)
    # 1e-38 keeps 0/0 out; PULSE^2 is far above it
    inverse1, inverse2 = tl.rsqrt(r1 * r1 + (i1 * i1 + 1e-38)), tl.rsqrt(r2 * r2 + (i2 * i2 + 1e-38))
    corner = (u == 0) & (v == 0)
    i1 = tl.where(corner, tl.where(b < 0, -1.0, 1.0), i1 * inverse1)
    i2 = tl.where(corner, tl.where(c < 0, -1.0, 1.0), i2 * inverse2)
    return r1 * inverse1, i1, r2 * inverse2, i2


@triton.jit
def _frequencies(u, v, SIZE: tl.constexpr):
    """Row and column of F(u,v), of its conjugate, of F(u,-v) and of its conjugate, as complex_pairs has them on the axes."""
    conjugate_u, conjugate_v = tl.where(u == 0, 0, SIZE - u), tl.where(v == 0, 0, SIZE - v)
    half = SIZE // 2
    crossed_u, crossed_v = tl.where(u == 0, half, u), tl.where(v == 0, half, SIZE - v)
    conjugate_crossed_u, conjugate_crossed_v = tl.where(u == 0, half, SIZE - u), tl.where(v == 0, half, v)
    return conjugate_u, conjugate_v, crossed_u, crossed_v, conjugate_crossed_u, conjugate_crossed_v


@triton.jit
def _generated_spectrum(
    r1,
    i1,
    r2,
    i2,
    u,
    v,
    base,  # pointer, or tile of pointers, to the planes of amplitude
    stride_h,
    stride_w,
    valid,
    SIZE: tl.constexpr,
):
    """a, b, c, d of A_G U with conjugate pairs added up (so A_G[k] + A_G[-k] for both), less A_G's DC, which `_blend` adds."""
    u1, v1, u2, v2, u3, v3 = _frequencies(u, v, SIZE)
    corner = (u == 0) & (v == 0)
    straight = _load(base + (u * stride_h + v * stride_w), valid)
    straight += _load(base + (u1 * stride_h + v1 * stride_w), valid & (corner == 0))
    crossed = _load(base + (u2 * stride_h + v2 * stride_w), valid)
    crossed += _load(base + (u3 * stride_h + v3 * stride_w), valid & (corner == 0))
    a, b, c, d = conjugate_sums(
        (r1 - corner.to(tl.float32)) * straight, i1 * straight, r2 * crossed, i2 * crossed, u, v
    )
    b = tl.where(corner, i1 * _load(base + SIZE // 2 * stride_w, valid), b)
    c = tl.where(corner, i2 * _load(base + SIZE // 2 * stride_h, valid), c)
    return a, b, c, d


@triton.jit
def _store_projections(
    r1,
    i1,
    r2,
    i2,
    a,
    b,
    c,
    d,
    weight,
    u,
    v,
    base,  # pointer, or tile of pointers, to the planes of the gradient
    stride_h,
    stride_w,
    valid,
    SIZE: tl.constexpr,
):
    """Store weight Re(conj(U) G) at every frequency and its conjugate, U as _phase_factors gives it and G as a, b, c, d."""
    g1, h1, g2, h2 = complex_pairs(a, b, c, d, u, v)
    straight, crossed = (r1 * g1 + i1 * h1) * weight, (r2 * g2 + i2 * h2) * weight
    u1, v1, u2, v2, u3, v3 = _frequencies(u, v, SIZE)
    element = base.dtype.element_ty
    corner = (u == 0) & (v == 0)
    # the masks span the tile: a scalar or a row would leave elements of it to several threads' writes
    everywhere, inner = valid & (u >= 0) & (v >= 0), valid & (corner == 0)
    tl.store(base + (u * stride_h + v * stride_w), straight.to(element), mask=everywhere)
    tl.store(base + (u1 * stride_h + v1 * stride_w), straight.to(element), mask=inner)
    tl.store(base + (u2 * stride_h + v2 * stride_w), crossed.to(element), mask=everywhere)
    tl.store(base + (u3 * stride_h + v3 * stride_w), crossed.to(element), mask=inner)
    tl.store(base + (SIZE // 2 * stride_w + 0 * (u + v)), (i1 * b * weight).to(element), mask=valid & corner)
    tl.store(base + (SIZE // 2 * stride_h + 0 * (u + v)), (i2 * c * weight).to(element), mask=valid & corner)


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
