"""The passes around torch.fft that mix amplitudes of planes of any size, odd ones too. jit functions only.

One program takes BLOCK elements of one plane; elements are indexed within their plane, planes as image and channel.
"""

# Triton compiles these functions; their arguments have no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def generated_half_spectrum(
    spectrum_ptr,  # [B, channels, height, width // 2 + 1, 2] float32, contiguous: half spectrum of the images, X
    amplitude_ptr,  # [B, channels, height, width], strides amplitude_stride_*, frequencies in FFT order: A_G
    generated_ptr,  # shape of spectrum, contiguous: half spectrum of Re IFFT2(A_G U), U = X / |X|
    channels,
    height,
    width,
    amplitude_stride_b,
    amplitude_stride_c,
    amplitude_stride_h,
    amplitude_stride_w,
    BLOCK: tl.constexpr,
):
    columns = width // 2 + 1
    plane, element = _elements(height * columns, BLOCK)
    valid = element < height * columns
    u, v = (element // columns).to(tl.int64), (element % columns).to(tl.int64)
    opposite_u, opposite_v = tl.where(u == 0, 0, height - u), tl.where(v == 0, 0, width - v)
    amplitude_ptr += plane // channels * amplitude_stride_b + plane % channels * amplitude_stride_c
    amplitude = tl.load(amplitude_ptr + u * amplitude_stride_h + v * amplitude_stride_w, mask=valid, other=0.0)
    opposite = tl.load(
        amplitude_ptr + opposite_u * amplitude_stride_h + opposite_v * amplitude_stride_w, mask=valid, other=0.0
    )
    mean = 0.5 * (amplitude.to(tl.float32) + opposite.to(tl.float32))
    offset = 2 * (plane * height * columns + element)
    real, imaginary = _phase_factor(spectrum_ptr + offset, valid)
    tl.store(generated_ptr + offset, mean * real, mask=valid)
    tl.store(generated_ptr + offset + 1, mean * imaginary, mask=valid)


@triton.jit
def blend(
    images_ptr,  # [B, channels, height, width], strides images_stride_*
    generated_ptr,  # same shape, contiguous float32: Re IFFT2(A_G U)
    lam_ptr,  # [B], stride lam_stride
    crop_ptr,  # [B, 2] int32 or int64, strides crop_stride_*; read if HAS_CROP
    flip_ptr,  # [B] bool, stride flip_stride; read if HAS_FLIP
    out_ptr,  # shape of images, strides out_stride_*
    channels,
    height,
    width,
    images_stride_b,
    images_stride_c,
    images_stride_h,
    images_stride_w,
    out_stride_b,
    out_stride_c,
    out_stride_h,
    out_stride_w,
    lam_stride,
    crop_stride_b,
    crop_stride_d,
    flip_stride,
    HAS_CROP: tl.constexpr,
    HAS_FLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The clipped mix, cropped and flipped; elements are pixels of the output."""
    plane, element = _elements(height * width, BLOCK)
    image, channel = plane // channels, plane % channels
    valid = element < height * width
    y, x = (element // width).to(tl.int64), (element % width).to(tl.int64)
    from_y, from_x = y, x
    if HAS_FLIP:
        from_x = tl.where(tl.load(flip_ptr + image * flip_stride) != 0, width - 1 - x, x)
    if HAS_CROP:
        from_y += tl.load(crop_ptr + image * crop_stride_b).to(tl.int64)
        from_x += tl.load(crop_ptr + image * crop_stride_b + crop_stride_d).to(tl.int64)
    inside = valid & (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
    mixed = _before_clip(
        images_ptr, generated_ptr, lam_ptr, image, channel, plane, from_y, from_x, inside,
        height, width, images_stride_b, images_stride_c, images_stride_h, images_stride_w, lam_stride,
    )  # fmt: skip
    mixed = tl.maximum(mixed, 0.0, propagate_nan=tl.PropagateNan.ALL)
    mixed = tl.minimum(mixed, 1.0, propagate_nan=tl.PropagateNan.ALL)
    mixed = tl.where(inside, mixed, 0.0).to(out_ptr.dtype.element_ty)
    out_ptr += image * out_stride_b + channel * out_stride_c
    tl.store(out_ptr + y * out_stride_h + x * out_stride_w, mixed, mask=valid)


@triton.jit
def grad_before_clip(
    grad_ptr,  # [B, channels, height, width], strides grad_stride_*: gradient to blend's out
    images_ptr,  # same shape, strides images_stride_*
    generated_ptr,  # same shape, contiguous float32: Re IFFT2(A_G U)
    lam_ptr,  # [B], stride lam_stride
    crop_ptr,  # [B, 2] int32 or int64, strides crop_stride_*; read if HAS_CROP
    flip_ptr,  # [B] bool, stride flip_stride; read if HAS_FLIP
    out_ptr,  # same shape, contiguous float32: gradient where the value before the clip lay in [0, 1], else 0
    channels,
    height,
    width,
    grad_stride_b,
    grad_stride_c,
    grad_stride_h,
    grad_stride_w,
    images_stride_b,
    images_stride_c,
    images_stride_h,
    images_stride_w,
    lam_stride,
    crop_stride_b,
    crop_stride_d,
    flip_stride,
    HAS_CROP: tl.constexpr,
    HAS_FLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Elements are pixels of the mixed image; a pixel has the gradient of the one place it went to."""
    plane, element = _elements(height * width, BLOCK)
    image, channel = plane // channels, plane % channels
    valid = element < height * width
    y, x = (element // width).to(tl.int64), (element % width).to(tl.int64)
    mixed = _before_clip(
        images_ptr, generated_ptr, lam_ptr, image, channel, plane, y, x, valid,
        height, width, images_stride_b, images_stride_c, images_stride_h, images_stride_w, lam_stride,
    )  # fmt: skip
    to_y, to_x = y, x
    if HAS_CROP:
        to_y -= tl.load(crop_ptr + image * crop_stride_b).to(tl.int64)
        to_x -= tl.load(crop_ptr + image * crop_stride_b + crop_stride_d).to(tl.int64)
    if HAS_FLIP:
        to_x = tl.where(tl.load(flip_ptr + image * flip_stride) != 0, width - 1 - to_x, to_x)
    kept = valid & (to_y >= 0) & (to_y < height) & (to_x >= 0) & (to_x < width) & (mixed >= 0) & (mixed <= 1)
    grad_ptr += image * grad_stride_b + channel * grad_stride_c
    grad = tl.load(grad_ptr + to_y * grad_stride_h + to_x * grad_stride_w, mask=kept, other=0.0).to(tl.float32)
    tl.store(out_ptr + plane * height * width + element, grad, mask=valid)


@triton.jit
def projections(
    spectrum_ptr,  # [B, channels, height, width // 2 + 1, 2] float32, contiguous: half spectrum of the images, X
    grad_spectrum_ptr,  # same shape, contiguous: half spectrum of the gradient before the clip, G
    lam_ptr,  # [B], stride lam_stride
    out_ptr,  # [B, channels, height, width], strides out_stride_*: gradient to A_G, lam/(HW) Re(conj(U) G)
    channels,
    height,
    width,
    out_stride_b,
    out_stride_c,
    out_stride_h,
    out_stride_w,
    lam_stride,
    BLOCK: tl.constexpr,
):
    """Elements are frequencies; those beyond the half spectrum have the value of the opposite one."""
    plane, element = _elements(height * width, BLOCK)
    image, channel = plane // channels, plane % channels
    valid = element < height * width
    u, v = (element // width).to(tl.int64), (element % width).to(tl.int64)
    columns = width // 2 + 1
    stored_u = tl.where((v < columns) | (u == 0), u, height - u)
    stored_v = tl.where(v < columns, v, width - v)
    offset = 2 * (plane * height * columns + stored_u * columns + stored_v)
    real, imaginary = _phase_factor(spectrum_ptr + offset, valid)
    grad_real = tl.load(grad_spectrum_ptr + offset, mask=valid, other=0.0)
    grad_imaginary = tl.load(grad_spectrum_ptr + offset + 1, mask=valid, other=0.0)
    weight = tl.load(lam_ptr + image * lam_stride).to(tl.float32) / (height * width)
    value = weight * (real * grad_real + imaginary * grad_imaginary)
    out_ptr += image * out_stride_b + channel * out_stride_c
    tl.store(out_ptr + u * out_stride_h + v * out_stride_w, value.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit
def _elements(count, BLOCK: tl.constexpr):
    """This program's plane, and indices [BLOCK] into its `count` elements."""
    blocks = tl.cdiv(count, BLOCK)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    return plane, tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _phase_factor(
    pointers,  # tile of pointers to the real parts of X, the imaginary ones behind them
    valid,
):
    """X / |X|, and 1 where X = 0. The larger part is divided out first, for squares overflow and underflow."""
    real, imaginary = tl.load(pointers, mask=valid, other=0.0), tl.load(pointers + 1, mask=valid, other=0.0)
    largest = tl.maximum(tl.abs(real), tl.abs(imaginary))
    real, imaginary = tl.where(largest == 0, 1.0, real), tl.where(largest == 0, 0.0, imaginary)
    largest = tl.where(largest == 0, 1.0, largest)
    real, imaginary = tl.div_rn(real, largest), tl.div_rn(imaginary, largest)
    norm = tl.sqrt_rn(real * real + imaginary * imaginary)
    return tl.div_rn(real, norm), tl.div_rn(imaginary, norm)


@triton.jit
def _before_clip(
    images_ptr,  # [B, channels, height, width]
    generated_ptr,  # same shape, contiguous float32
    lam_ptr,  # [B]
    image,
    channel,
    plane,
    y,
    x,
    inside,
    height,
    width,
    images_stride_b,
    images_stride_c,
    images_stride_h,
    images_stride_w,
    lam_stride,
):
    """(1 - lam) x + lam Re IFFT2(A_G U) at pixels (y, x)."""
    lam = tl.load(lam_ptr + image * lam_stride).to(tl.float32)
    tl.device_assert((lam >= 0) & (lam <= 1), "amplitude_mix: lam is outside [0, 1]")
    images_ptr += image * images_stride_b + channel * images_stride_c
    pixel = tl.load(images_ptr + y * images_stride_h + x * images_stride_w, mask=inside, other=0.0).to(tl.float32)
    generated = tl.load(generated_ptr + plane * height * width + y * width + x, mask=inside, other=0.0)
    return (1.0 - lam) * pixel + lam * generated
