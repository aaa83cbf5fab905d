"""The PGD step and the random start, each one pass over memory. jit functions only.

The `*_dense` kernels run over tensors that lie in memory in one and the same order, so one offset serves all of them.
`step_strided` takes every tensor's own strides and goes through pixels in channels-last order, which reads
channels-last tensors straight and others in one straight run per channel; `start_strided` goes in the order that
numbers the noise.

Step size, epsilon and scale come as a number, as one number on the device, or as one per sample: the kinds below.
"""

# Triton compiles these functions; their arguments have no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

NUMBER = tl.constexpr(0)
ON_DEVICE = tl.constexpr(1)
PER_SAMPLE = tl.constexpr(2)


@triton.jit
def step_dense(
    adversarial_ptr,  # [count], contiguous, as are all
    gradient_ptr,  # [count]
    images_ptr,  # [count]
    out_ptr,  # [count]; may be adversarial_ptr
    model_input_ptr,  # [count], or None
    active_ptr,  # [count] bool, or None
    step_size,  # STEP_SIZE: float, or pointer to one float32, or to [B]
    epsilon,  # EPSILON: likewise
    count,
    per_sample,  # elements of a sample where one of the two is PER_SAMPLE, samples being outermost in memory; else None
    STEP_SIZE: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # 64 bits for the program's start alone: the compiler still sees aligned runs behind it and moves 16 bytes at a time
    if per_sample is None:
        sample = 0
        start = tl.program_id(0).to(tl.int64) * BLOCK
        offsets = start + tl.arange(0, BLOCK)
        valid = offsets < count
    else:
        # a program stays within one sample, so its number is found by one division, not one per element
        blocks = tl.cdiv(per_sample, BLOCK)
        sample = (tl.program_id(0) // blocks).to(tl.int64)
        within = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        valid = within < per_sample
        offsets = sample * per_sample + within
    result, active = _step(
        tl.load(adversarial_ptr + offsets, mask=valid),
        tl.load(gradient_ptr + offsets, mask=valid),
        tl.load(images_ptr + offsets, mask=valid),
        _number(step_size, sample, None, STEP_SIZE),
        _number(epsilon, sample, None, EPSILON),
    )
    tl.store(out_ptr + offsets, result.to(out_ptr.dtype.element_ty), mask=valid)
    if model_input_ptr is not None:
        tl.store(model_input_ptr + offsets, result.to(model_input_ptr.dtype.element_ty), mask=valid)
    if active_ptr is not None:
        tl.store(active_ptr + offsets, active, mask=valid)


@triton.jit
def step_strided(
    adversarial_ptr,  # [B, channels, height, width], strides adversarial_stride_*, and so on for all
    gradient_ptr,  # same shape
    images_ptr,  # same shape
    out_ptr,  # same shape; may be adversarial_ptr
    model_input_ptr,  # same shape, or None
    active_ptr,  # same shape, bool, or None
    step_size,  # STEP_SIZE: float, or pointer to one float32, or to [B]
    epsilon,  # EPSILON: likewise
    count,
    channels,
    height,
    width,
    adversarial_stride_b,
    adversarial_stride_c,
    adversarial_stride_h,
    adversarial_stride_w,
    gradient_stride_b,
    gradient_stride_c,
    gradient_stride_h,
    gradient_stride_w,
    images_stride_b,
    images_stride_c,
    images_stride_h,
    images_stride_w,
    out_stride_b,
    out_stride_c,
    out_stride_h,
    out_stride_w,
    model_input_stride_b,
    model_input_stride_c,
    model_input_stride_h,
    model_input_stride_w,
    active_stride_b,
    active_stride_c,
    active_stride_h,
    active_stride_w,
    STEP_SIZE: tl.constexpr,
    EPSILON: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element = _elements(WIDE, BLOCK)
    valid = element < count
    c, pixel = (element % channels).to(tl.int64), element // channels
    x, row = (pixel % width).to(tl.int64), pixel // width
    y, b = (row % height).to(tl.int64), (row // height).to(tl.int64)
    adversarial_ptr += (
        b * adversarial_stride_b + c * adversarial_stride_c + y * adversarial_stride_h + x * adversarial_stride_w
    )
    gradient_ptr += b * gradient_stride_b + c * gradient_stride_c + y * gradient_stride_h + x * gradient_stride_w
    images_ptr += b * images_stride_b + c * images_stride_c + y * images_stride_h + x * images_stride_w
    result, active = _step(
        tl.load(adversarial_ptr, mask=valid),
        tl.load(gradient_ptr, mask=valid),
        tl.load(images_ptr, mask=valid),
        _number(step_size, b, valid, STEP_SIZE),
        _number(epsilon, b, valid, EPSILON),
    )
    out_offsets = b * out_stride_b + c * out_stride_c + y * out_stride_h + x * out_stride_w
    tl.store(out_ptr + out_offsets, result.to(out_ptr.dtype.element_ty), mask=valid)
    if model_input_ptr is not None:
        offsets = (
            b * model_input_stride_b + c * model_input_stride_c + y * model_input_stride_h + x * model_input_stride_w
        )
        tl.store(model_input_ptr + offsets, result.to(model_input_ptr.dtype.element_ty), mask=valid)
    if active_ptr is not None:
        offsets = b * active_stride_b + c * active_stride_c + y * active_stride_h + x * active_stride_w
        tl.store(active_ptr + offsets, active, mask=valid)


@triton.jit(do_not_specialize=["seed", "offset"])
def start_dense(
    images_ptr,  # [count], contiguous, elements in NCHW order
    out_ptr,  # [count], likewise
    scale,  # SCALE: float, or pointer to one float32, or to [B]
    epsilon,  # EPSILON: likewise, or None
    seed,  # integer, or pointer to one int64 if SEED_ON_DEVICE
    offset,  # integer, or pointer to one int64 if OFFSET_ON_DEVICE
    count,
    per_sample,  # elements of a sample, at most 2^31 - BLOCK, where scale or epsilon is PER_SAMPLE; else None
    GAUSSIAN: tl.constexpr,
    SCALE: tl.constexpr,
    EPSILON: tl.constexpr,
    SEED_ON_DEVICE: tl.constexpr,
    OFFSET_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = element < count
    noise = _noise(_integer(seed, SEED_ON_DEVICE), _integer(offset, OFFSET_ON_DEVICE), GAUSSIAN, BLOCK)
    x = tl.load(images_ptr + element, mask=valid).to(tl.float32)
    sample = 0 if per_sample is None else _samples(per_sample, BLOCK)
    result = _started(x, noise, scale, epsilon, sample, valid, SCALE, EPSILON)
    tl.store(out_ptr + element, result.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["seed", "offset"])
def start_strided(
    images_ptr,  # [B, channels, height, width], strides images_stride_*
    out_ptr,  # same shape, strides out_stride_*
    scale,  # SCALE: float, or pointer to one float32, or to [B]
    epsilon,  # EPSILON: likewise, or None
    seed,  # integer, or pointer to one int64 if SEED_ON_DEVICE
    offset,  # integer, or pointer to one int64 if OFFSET_ON_DEVICE
    count,
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
    GAUSSIAN: tl.constexpr,
    SCALE: tl.constexpr,
    EPSILON: tl.constexpr,
    SEED_ON_DEVICE: tl.constexpr,
    OFFSET_ON_DEVICE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element = _elements(WIDE, BLOCK)
    valid = element < count
    x, row = (element % width).to(tl.int64), element // width
    y, plane = (row % height).to(tl.int64), row // height
    c, b = (plane % channels).to(tl.int64), (plane // channels).to(tl.int64)
    noise = _noise(_integer(seed, SEED_ON_DEVICE), _integer(offset, OFFSET_ON_DEVICE), GAUSSIAN, BLOCK)
    images_ptr += b * images_stride_b + c * images_stride_c + y * images_stride_h + x * images_stride_w
    pixel = tl.load(images_ptr, mask=valid).to(tl.float32)
    result = _started(pixel, noise, scale, epsilon, b, valid, SCALE, EPSILON)
    out_ptr += b * out_stride_b + c * out_stride_c + y * out_stride_h + x * out_stride_w
    tl.store(out_ptr, result.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit
def _step(adversarial, gradient, x, step_size, epsilon):
    """The result in float32 and where it moves with the image; NaN passes through as in PyTorch, but sign(NaN) = 0.

    One rounding per operation, as in eager float32. A fused multiply-add would not change that: the product is 0 or
    +-step_size, exactly.
    """
    x, gradient = x.to(tl.float32), gradient.to(tl.float32)
    sign = tl.where(gradient > 0, 1.0, tl.where(gradient < 0, -1.0, 0.0))
    stepped = adversarial.to(tl.float32) + step_size * sign
    low, high = x - epsilon, x + epsilon
    boxed = _within(stepped, low, high)
    active = ((stepped < low) | (stepped > high)) & (boxed >= 0.0) & (boxed <= 1.0)
    return _within(boxed, 0.0, 1.0), active


@triton.jit
def _within(value, low, high):
    value = tl.maximum(value, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(value, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _number(value, sample, valid, KIND: tl.constexpr):
    if KIND == PER_SAMPLE:
        return tl.load(value + sample, mask=valid)
    elif KIND == ON_DEVICE:
        return tl.load(value)
    else:
        return value


@triton.jit
def _integer(value, IS_ON_DEVICE: tl.constexpr):
    if IS_ON_DEVICE:
        return tl.load(value)
    else:
        return value


@triton.jit
def _samples(per_sample, BLOCK: tl.constexpr):
    """Sample [BLOCK] of each of this program's elements in NCHW order; one division of 64 bits, the rest in 32."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    first = start // per_sample
    before = (start - first * per_sample).to(tl.int32)
    return first + (before + tl.arange(0, BLOCK)) // per_sample


@triton.jit
def _elements(WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Indices [BLOCK] of this program's elements. WIDE where 32 bits are too few, which makes divisions slower."""
    start = tl.program_id(0)
    if WIDE:
        start = start.to(tl.int64)
    return start * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _started(x, noise, scale, epsilon, sample, valid, SCALE: tl.constexpr, EPSILON: tl.constexpr):
    result = x + _number(scale, sample, valid, SCALE) * noise
    if epsilon is not None:
        bound = _number(epsilon, sample, valid, EPSILON)
        result = _within(result, x - bound, x + bound)
    return _within(result, 0.0, 1.0)


@triton.jit
def _noise(seed, offset, GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr):
    """Noise [BLOCK] of this program's elements, as `philox.py` defines it: four elements to a block of words."""
    block = tl.program_id(0).to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    stream = offset.to(tl.int64)
    stream_low, stream_high = (stream & 0xFFFFFFFF).to(tl.uint32), (stream >> 32).to(tl.uint32)
    low, high = (block & 0xFFFFFFFF).to(tl.uint32), (block >> 32).to(tl.uint32)
    zero = tl.zeros_like(low)
    words = tl.philox(seed.to(tl.int64), low, high, zero + stream_low, zero + stream_high)
    if GAUSSIAN:
        first, second = _normal_pair(words[0], words[1])
        third, fourth = _normal_pair(words[2], words[3])
    else:
        first, second, third, fourth = _uniform(words[0]), _uniform(words[1]), _uniform(words[2]), _uniform(words[3])
    return tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), [BLOCK])


@triton.jit
def _uniform(word):
    """In [-1, 1): 24 bits, every step exact."""
    return (word >> 8).to(tl.int32).to(tl.float32) * (2.0**-23) - 1.0


@triton.jit
def _normal_pair(radius_word, angle_word):
    """Box and Muller's transform: sqrt(-2 ln u) cos(2 pi t) and sin, u = (24 bits + 1) 2^-24, t = 24 bits 2^-24."""
    u = ((radius_word >> 8).to(tl.int32) + 1).to(tl.float32) * (2.0**-24)
    radius = tl.sqrt_rn(-2.0 * tl.log(u))
    # The quarter turn comes off the integer, which leaves an angle of at most pi/4. (tl.sin would keep a table in local
    # memory for angles that do not occur.)
    turn = (angle_word >> 8).to(tl.int32)
    quarter = (turn + (1 << 21)) >> 22
    angle = (turn - (quarter << 22)).to(tl.float32) * (6.283185307179586 * 2.0**-24)
    a = angle * angle
    sine = angle + angle * a * (-1 / 6 + a * (1 / 120 + a * (-1 / 5040 + a * (1 / 362880))))
    cosine = 1.0 + a * (-0.5 + a * (1 / 24 + a * (-1 / 720 + a * (1 / 40320 + a * (-1 / 3628800)))))
    odd = (quarter & 1) != 0
    x, y = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    x = tl.where(((quarter + 1) & 2) != 0, -x, x)
    y = tl.where((quarter & 2) != 0, -y, y)
    return radius * x, radius * y
