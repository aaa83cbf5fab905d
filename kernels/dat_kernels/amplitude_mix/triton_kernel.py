"""The amplitude mix of 16, 32 and 64 pixel squares, one plane per program: forward and backward, each in one launch.

Pixels are held as one tile [SIZE, SIZE], or FOLDED as its four quadrants [HALF, HALF]; frequencies as four tiles
[HALF, HALF], rows v, columns u. `triton_transform` explains both, README.md derives them. jit functions only.
"""

# Triton compiles these functions; their arguments have no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from dat_kernels.amplitude_mix.triton_spectrum import generated_spectrum, phase_factors, store_projections
from dat_kernels.amplitude_mix.triton_transform import (
    MATRIX_SCALE,
    folded_image_spectrum,
    folded_plane,
    whole_image_spectrum,
    whole_plane,
    whole_spectrum,
)


@triton.jit
def mix_forward(
    images_ptr,  # [B, channels, SIZE, SIZE], strides images_stride_*
    amplitude_ptr,  # same shape, strides amplitude_stride_*, frequencies in FFT order
    lam_ptr,  # [B], stride lam_stride
    crop_ptr,  # [B, 2] int32 or int64, strides crop_stride_*; read if HAS_CROP
    flip_ptr,  # [B] bool, stride flip_stride; read if HAS_FLIP
    table_ptr,  # float16, [6, 2, 2, HALF, HALF] if FOLDED, else [6, 2, SIZE, SIZE]
    pulse_ptr,  # [2, HALF] float32
    out_ptr,  # shape of images, strides out_stride_*
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
    FOLDED: tl.constexpr,
    HAS_CROP: tl.constexpr,
    HAS_FLIP: tl.constexpr,
):
    image = (tl.program_id(0) // channels).to(tl.int64)
    channel = (tl.program_id(0) % channels).to(tl.int64)
    images = images_ptr + image * images_stride_b + channel * images_stride_c
    amplitude = amplitude_ptr + image * amplitude_stride_b + channel * amplitude_stride_c
    out = out_ptr + image * out_stride_b + channel * out_stride_c

    u, v = tl.arange(0, SIZE // 2)[None, :], tl.arange(0, SIZE // 2)[:, None]
    n, m, n_, m_ = _pixel_indices(SIZE, FOLDED)
    if FOLDED:
        x00, x01, x10, x11 = _quadrants(images, n, m, n_, m_, images_stride_h, images_stride_w, "evict_last")
        a, b, c, d = folded_image_spectrum(x00, x01, x10, x11, table_ptr, SIZE // 2)
    else:
        x = _pixels(images, n, m, images_stride_h, images_stride_w, "evict_last")
        a, b, c, d = whole_image_spectrum(x, table_ptr, SIZE)
    r1, i1, r2, i2 = phase_factors(a, b, c, d, u, v, pulse_ptr, SIZE // 2)
    a, b, c, d = generated_spectrum(r1, i1, r2, i2, u, v, amplitude, amplitude_stride_h, amplitude_stride_w, SIZE)

    lam = tl.load(lam_ptr + image * lam_stride).to(tl.float32)
    tl.device_assert((lam >= 0) & (lam <= 1), "amplitude_mix: lam is outside [0, 1]")
    dc = tl.load(amplitude).to(tl.float32)
    dy, dx, flip = _crop_and_flip(
        crop_ptr, flip_ptr, image, crop_stride_b, crop_stride_d, flip_stride, SIZE, HAS_CROP, HAS_FLIP
    )
    MOVED: tl.constexpr = HAS_CROP or HAS_FLIP
    # x is read again rather than kept: it is in the cache, and registers are short
    if FOLDED:
        g00, g01, g10, g11 = folded_plane(a, b, c, d, table_ptr, SIZE // 2)
        x00, x01, x10, x11 = _quadrants(images, n, m, n_, m_, images_stride_h, images_stride_w, "")
        x00, x01 = _blend(x00, g00, dc, lam, SIZE), _blend(x01, g01, dc, lam, SIZE)
        x10, x11 = _blend(x10, g10, dc, lam, SIZE), _blend(x11, g11, dc, lam, SIZE)
        _store_clipped(x00, out, n, m, out_stride_h, out_stride_w, dy, dx, flip, SIZE, MOVED)
        _store_clipped(x01, out, n, m_, out_stride_h, out_stride_w, dy, dx, flip, SIZE, MOVED)
        _store_clipped(x10, out, n_, m, out_stride_h, out_stride_w, dy, dx, flip, SIZE, MOVED)
        _store_clipped(x11, out, n_, m_, out_stride_h, out_stride_w, dy, dx, flip, SIZE, MOVED)
    else:
        g = whole_plane(a, b, c, d, table_ptr, SIZE)
        x = _blend(_pixels(images, n, m, images_stride_h, images_stride_w, ""), g, dc, lam, SIZE)
        _store_clipped(x, out, n, m, out_stride_h, out_stride_w, dy, dx, flip, SIZE, MOVED)


@triton.jit
def mix_backward_amplitude(
    grad_ptr,  # [B, channels, SIZE, SIZE], strides grad_stride_*: gradient to mix_forward's out
    images_ptr,  # same shape, strides images_stride_*
    amplitude_ptr,  # same shape, strides amplitude_stride_*
    lam_ptr,  # [B], stride lam_stride
    crop_ptr,  # [B, 2] int32 or int64, strides crop_stride_*; read if HAS_CROP
    flip_ptr,  # [B] bool, stride flip_stride; read if HAS_FLIP
    table_ptr,  # [6, 2, SIZE, SIZE] float16
    pulse_ptr,  # [2, HALF] float32
    out_ptr,  # shape of amplitude, strides out_stride_*: gradient to amplitude
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
    HAS_CROP: tl.constexpr,
    HAS_FLIP: tl.constexpr,
):
    image = (tl.program_id(0) // channels).to(tl.int64)
    channel = (tl.program_id(0) % channels).to(tl.int64)
    grad = grad_ptr + image * grad_stride_b + channel * grad_stride_c
    images = images_ptr + image * images_stride_b + channel * images_stride_c
    amplitude = amplitude_ptr + image * amplitude_stride_b + channel * amplitude_stride_c
    out = out_ptr + image * out_stride_b + channel * out_stride_c
    lam = tl.load(lam_ptr + image * lam_stride).to(tl.float32)
    dc = tl.load(amplitude).to(tl.float32)
    dy, dx, flip = _crop_and_flip(
        crop_ptr, flip_ptr, image, crop_stride_b, crop_stride_d, flip_stride, SIZE, HAS_CROP, HAS_FLIP
    )

    u, v = tl.arange(0, SIZE // 2)[None, :], tl.arange(0, SIZE // 2)[:, None]
    n, m = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    x = _pixels(images, n, m, images_stride_h, images_stride_w, "evict_last")
    a, b, c, d = whole_image_spectrum(x, table_ptr, SIZE)
    r1, i1, r2, i2 = phase_factors(a, b, c, d, u, v, pulse_ptr, SIZE // 2)
    a, b, c, d = generated_spectrum(r1, i1, r2, i2, u, v, amplitude, amplitude_stride_h, amplitude_stride_w, SIZE)
    g = whole_plane(a, b, c, d, table_ptr, SIZE)
    x = _blend(_pixels(images, n, m, images_stride_h, images_stride_w, ""), g, dc, lam, SIZE)
    g = _kept_grad(x, grad, n, m, grad_stride_h, grad_stride_w, dy, dx, flip, SIZE, HAS_CROP or HAS_FLIP)
    a, b, c, d = whole_spectrum(g, table_ptr, SIZE)
    weight = lam * (1.0 / (SIZE * SIZE * MATRIX_SCALE * MATRIX_SCALE))
    store_projections(r1, i1, r2, i2, a, b, c, d, weight, u, v, out, out_stride_h, out_stride_w, SIZE)


@triton.jit
def _pixel_indices(SIZE: tl.constexpr, FOLDED: tl.constexpr):
    """Rows and columns of a pixel tile, then those mirrored."""
    LENGTH: tl.constexpr = SIZE // 2 if FOLDED else SIZE
    n, m = tl.arange(0, LENGTH)[:, None], tl.arange(0, LENGTH)[None, :]
    return n, m, SIZE - 1 - n, SIZE - 1 - m


@triton.jit
def _pixels(plane, n, m, stride_h, stride_w, POLICY: tl.constexpr):
    return tl.load(plane + (n * stride_h + m * stride_w), eviction_policy=POLICY).to(tl.float32)


@triton.jit
def _quadrants(plane, n, m, n_, m_, stride_h, stride_w, POLICY: tl.constexpr):
    return (
        _pixels(plane, n, m, stride_h, stride_w, POLICY),
        _pixels(plane, n, m_, stride_h, stride_w, POLICY),
        _pixels(plane, n_, m, stride_h, stride_w, POLICY),
        _pixels(plane, n_, m_, stride_h, stride_w, POLICY),
    )


@triton.jit
def _blend(x, generated, dc, lam, SIZE: tl.constexpr):
    """The mix before the clip."""
    generated = generated * (1.0 / (SIZE * SIZE * MATRIX_SCALE * MATRIX_SCALE)) + dc * (1.0 / (SIZE * SIZE))
    return (1.0 - lam) * x + lam * generated


@triton.jit
def _crop_and_flip(
    crop_ptr,  # [B, 2] int32 or int64
    flip_ptr,  # [B] bool
    image,
    crop_stride_b,
    crop_stride_d,
    flip_stride,
    SIZE: tl.constexpr,
    HAS_CROP: tl.constexpr,
    HAS_FLIP: tl.constexpr,
):
    """dy, dx and flip of an image. An offset of SIZE moves all of it out, so longer ones are cut to that."""
    dy, dx, flip = 0, 0, False
    if HAS_CROP:
        dy = tl.load(crop_ptr + image * crop_stride_b).to(tl.int64)
        dx = tl.load(crop_ptr + image * crop_stride_b + crop_stride_d).to(tl.int64)
        dy = tl.minimum(tl.maximum(dy, -SIZE), SIZE).to(tl.int32)
        dx = tl.minimum(tl.maximum(dx, -SIZE), SIZE).to(tl.int32)
    if HAS_FLIP:
        flip = tl.load(flip_ptr + image * flip_stride) != 0
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
    plane,  # pointer to pixel (0, 0) of out
    y,
    x,
    stride_h,
    stride_w,
    dy,
    dx,
    flip,
    SIZE: tl.constexpr,
    MOVED: tl.constexpr,
):
    value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    value = tl.minimum(value, 1.0, propagate_nan=tl.PropagateNan.ALL).to(plane.dtype.element_ty)
    if MOVED:
        # No two pixels go to one place, and no pixel goes to the places that this program fills with zeros.
        to_y, to_x, inside = _output_pixel(y, x, dy, dx, flip, SIZE)
        tl.store(plane + (to_y * stride_h + to_x * stride_w), value, mask=inside)
        from_y, from_x = y + dy, tl.where(flip, SIZE - 1 - x, x) + dx
        outside = (from_y < 0) | (from_y >= SIZE) | (from_x < 0) | (from_x >= SIZE)
        tl.store(plane + (y * stride_h + x * stride_w), tl.zeros_like(value), mask=outside)
    else:
        tl.store(plane + (y * stride_h + x * stride_w), value)


@triton.jit
def _kept_grad(
    before_clip,
    plane,  # pointer to pixel (0, 0) of grad
    y,
    x,
    stride_h,
    stride_w,
    dy,
    dx,
    flip,
    SIZE: tl.constexpr,
    MOVED: tl.constexpr,
):
    """Gradient to the value before the clip, whose bounds count as inside."""
    kept = (before_clip >= 0) & (before_clip <= 1)
    if MOVED:
        y, x, inside = _output_pixel(y, x, dy, dx, flip, SIZE)
        kept = kept & inside
    return tl.load(plane + (y * stride_h + x * stride_w), mask=kept, other=0.0).to(tl.float32)
