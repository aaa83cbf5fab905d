"""The amplitude mix of 16, 32 and 64 pixel squares, forward and backward, each in one launch.

A program holds PLANES blocks of BLOCK x BLOCK values; a block is the folded half of one plane (HALF = SIZE/2 = BLOCK), or at
16 pixels, where HALF is less than the smallest matrix product, a 2 x 2 arrangement of four planes' halves, transformed by
block-diagonal matrices. Derivation, operation counts and measurements: README.md. In short:

- Write the DFT about the middle of the image, exp(-2 pi i u (n + 1/2)/SIZE). It differs from the plain one by a factor of
  modulus one per frequency, which cancels between the transform and its inverse. Its cosines are even and its sines odd
  under n -> SIZE-1-n, so with the image folded into sums and differences of mirrored pixels the transform of SIZE points is
  two of HALF points: cosines u = 0..HALF-1, and sines u = 1..HALF-1 with u = HALF in slot 0. Folding both axes leaves
  a = C pp C', b = C pq S', c = S qp C', d = S qq S': half the products of the unfolded transform.
- F(u,v) = (a-d) - i(b+c) and F(u,-v) = (a+d) + i(b-c) for u, v > 0; on the axes F(0,v) = a - ib, F(HALF,v) ~ c - id,
  F(u,0) = a - ic, F(u,HALF) ~ b - id; slot (0,0) holds four real frequencies.
- In float32 the products run on tensor cores in three TF32 passes: each factor is split into its leading 11 bits and the
  rest, the matrices' split is made on the host.
"""

import triton
import triton.language as tl

# Rows of the table of matrices: [basis][part]; written by triton_backend.transform_table.
CENTRED_COSINE = tl.constexpr(0)  # the cosine matrix for input prepared by _centre_rows or _centre_columns
COSINE = tl.constexpr(1)
SINE = tl.constexpr(2)
WHOLE = tl.constexpr(0)
LEADING = tl.constexpr(1)
REMAINDER = tl.constexpr(2)

# |X|^2 below float32's normal range counts as X = 0: rsqrt flushes it to zero.
SMALLEST_NORMAL = tl.constexpr(1.1754944e-38)


@triton.jit
def mix_forward(
    images_ptr,  # [planes/channels, channels, SIZE, SIZE], strides images_stride_*
    amplitude_ptr,  # the same shape, strides amplitude_stride_*, frequencies in FFT order
    lam_ptr,  # [planes/channels], stride lam_stride
    crop_ptr,  # [planes/channels, 2] int32 or int64, strides crop_stride_*; not read unless HAS_CROP
    flip_ptr,  # [planes/channels] bool, stride flip_stride; not read unless HAS_FLIP
    table_ptr,  # [3, 3, BLOCK, BLOCK] float32, contiguous: basis, part
    out_ptr,  # the same shape as images, strides out_stride_*
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
    image, channel = _image_and_channel(plane, channels)
    base = images_ptr + image * images_stride_b + channel * images_stride_c
    x00, x01, x10, x11 = _load_four(
        base, n, SIZE - 1 - n, m, SIZE - 1 - m, images_stride_h, images_stride_w, valid, BLOCK, PLANES
    )
    lam = tl.load(lam_ptr + image * lam_stride, mask=valid, other=0.0).to(tl.float32)
    tl.device_assert((lam >= 0) & (lam <= 1), "amplitude_mix: lam is outside [0, 1]")

    a, b, c, d = _transform(x00, x01, x10, x11, table_ptr, True, HALF, BLOCK, PLANES, TENSOR_CORES)
    u, v, spectral_plane = _frequency_tile(HALF, BLOCK, PLANES)
    r1, i1, r2, i2 = _phases(a, b, c, d, u, v, table_ptr, BLOCK)
    spectral_image, spectral_channel = _image_and_channel(spectral_plane, channels)
    amplitude_base = (
        amplitude_ptr + spectral_image * amplitude_stride_b + spectral_channel * amplitude_stride_c
    )
    app, apn, anp, ann = _load_four(
        amplitude_base, u, _mirrored(u, HALF), v, _mirrored(v, HALF), amplitude_stride_h, amplitude_stride_w,
        spectral_plane < planes, BLOCK, PLANES,
    )  # fmt: skip
    dc = tl.load(
        amplitude_ptr + image * amplitude_stride_b + channel * amplitude_stride_c, mask=valid, other=0.0
    ).to(tl.float32)
    g00, g01, g10, g11 = _generated(
        r1, i1, r2, i2, app, apn, anp, ann, dc, u, v, table_ptr, HALF, BLOCK, PLANES, TENSOR_CORES
    )
    x00, x01, x10, x11 = _blend(x00, g00, lam), _blend(x01, g01, lam), _blend(x10, g10, lam), _blend(x11, g11, lam)

    out_base = out_ptr + image * out_stride_b + channel * out_stride_c
    mirrored_n, mirrored_m = SIZE - 1 - n, SIZE - 1 - m
    if HAS_CROP or HAS_FLIP:
        dy, dx, flip = _crop_and_flip(
            crop_ptr, flip_ptr, image, valid, crop_stride_b, crop_stride_d, flip_stride, HAS_CROP, HAS_FLIP
        )
        _store_augmented(out_base, x00, n, m, dy, dx, flip, valid, out_stride_h, out_stride_w, SIZE)
        _store_augmented(out_base, x01, n, mirrored_m, dy, dx, flip, valid, out_stride_h, out_stride_w, SIZE)
        _store_augmented(out_base, x10, mirrored_n, m, dy, dx, flip, valid, out_stride_h, out_stride_w, SIZE)
        _store_augmented(out_base, x11, mirrored_n, mirrored_m, dy, dx, flip, valid, out_stride_h, out_stride_w, SIZE)
    else:
        _store(out_base, x00, n, m, out_stride_h, out_stride_w, valid)
        _store(out_base, x01, n, mirrored_m, out_stride_h, out_stride_w, valid)
        _store(out_base, x10, mirrored_n, m, out_stride_h, out_stride_w, valid)
        _store(out_base, x11, mirrored_n, mirrored_m, out_stride_h, out_stride_w, valid)
