"""Spectra of real planes as `triton_transform` makes them: phases, generated amplitudes, gradients. jit functions only.

Tiles are [HALF, HALF], HALF = SIZE/2, rows v, columns u.
"""

# Triton compiles these functions; their arguments have no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def complex_pairs(a, b, c, d, u, v):
    """r1, i1, r2, i2 with F(u,v) = r1 - i i1 and F(u,-v) = r2 + i i2.

    On an axis these are the two frequencies kept there, up to a constant factor of modulus one: F(0,v) and F(HALF,v),
    or F(u,0) and F(u,HALF). In slot (0,0), r1 and r2 are the real F(0,0) and F(HALF,HALF); i1 = i2 = 0 leaves b and c
    out.
    """
    of_u, of_v = (u != 0).to(tl.float32), (v != 0).to(tl.float32)
    off_axis = of_u * of_v
    return a - off_axis * d, of_v * b + of_u * c, d + off_axis * a, of_u * b - of_v * c


@triton.jit
def conjugate_sums(r1, i1, r2, i2, u, v):
    """The adjoint of complex_pairs: a, b, c, d of a spectrum with conjugate pairs added up, b = c = 0 in slot (0,0)."""
    of_u, of_v = (u != 0).to(tl.float32), (v != 0).to(tl.float32)
    off_axis = of_u * of_v
    return r1 + off_axis * r2, of_v * i1 + of_u * i2, of_u * i1 - of_v * i2, r2 - off_axis * r1


@triton.jit
def phase_factors(
    a,
    b,
    c,
    d,
    u,
    v,
    pulse_ptr,  # [2, HALF] float32
    HALF: tl.constexpr,
):
    """complex_pairs of X/|X|, 1 where X = 0; in slot (0,0) i1 and i2 are the signs of b and c.

    They are those of X + 1e-15, the last term a faint pulse at pixel (0, 0): where X is not 0 it is above 1e-8 or so.
    """
    cosine_u, sine_u = tl.load(pulse_ptr + u), tl.load(pulse_ptr + HALF + u)
    cosine_v, sine_v = tl.load(pulse_ptr + v), tl.load(pulse_ptr + HALF + v)
    a, b, c, d = a + cosine_u * cosine_v, b + cosine_u * sine_v, c + sine_u * cosine_v, d + sine_u * sine_v
    r1, i1, r2, i2 = complex_pairs(a, b, c, d, u, v)
    # 1e-36 only keeps 0/0 out: the pulse's square is far above it
    inverse1, inverse2 = tl.rsqrt(r1 * r1 + (i1 * i1 + 1e-36)), tl.rsqrt(r2 * r2 + (i2 * i2 + 1e-36))
    corner = (u == 0) & (v == 0)
    i1 = tl.where(corner, tl.where(b < 0, -1.0, 1.0), i1 * inverse1)
    i2 = tl.where(corner, tl.where(c < 0, -1.0, 1.0), i2 * inverse2)
    return r1 * inverse1, i1, r2 * inverse2, i2


@triton.jit
def _frequencies(u, v, SIZE: tl.constexpr):
    """Rows and columns in FFT order: of the conjugate of F(u,v), of F(u,-v), of its conjugate, as in complex_pairs."""
    HALF: tl.constexpr = SIZE // 2
    conjugate_u, conjugate_v = tl.where(u == 0, 0, SIZE - u), tl.where(v == 0, 0, SIZE - v)
    crossed_u, crossed_v = tl.where(u == 0, HALF, u), tl.where(v == 0, HALF, SIZE - v)
    return conjugate_u, conjugate_v, crossed_u, crossed_v, tl.where(u == 0, HALF, SIZE - u), tl.where(v == 0, HALF, v)


@triton.jit
def generated_spectrum(
    r1,
    i1,
    r2,
    i2,
    u,
    v,
    plane,  # pointer to A_G[0, 0]
    stride_h,
    stride_w,
    SIZE: tl.constexpr,
):
    """a, b, c, d of A_G U with conjugate pairs added up, so that both members have A_G[k] + A_G[-k].

    A_G's DC is left out, for it would cost the others their last places: it is far the largest. The blend adds it.
    """
    u1, v1, u2, v2, u3, v3 = _frequencies(u, v, SIZE)
    corner = (u == 0) & (v == 0)
    straight = tl.load(plane + (u * stride_h + v * stride_w)).to(tl.float32)
    straight += tl.load(plane + (u1 * stride_h + v1 * stride_w), mask=corner == 0, other=0.0).to(tl.float32)
    crossed = tl.load(plane + (u2 * stride_h + v2 * stride_w)).to(tl.float32)
    crossed += tl.load(plane + (u3 * stride_h + v3 * stride_w), mask=corner == 0, other=0.0).to(tl.float32)
    a, b, c, d = conjugate_sums(
        (r1 - corner.to(tl.float32)) * straight, i1 * straight, r2 * crossed, i2 * crossed, u, v
    )
    b = tl.where(corner, i1 * tl.load(plane + SIZE // 2 * stride_w).to(tl.float32), b)
    c = tl.where(corner, i2 * tl.load(plane + SIZE // 2 * stride_h).to(tl.float32), c)
    return a, b, c, d


@triton.jit
def store_projections(
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
    plane,  # pointer to the gradient to A_G[0, 0]
    stride_h,
    stride_w,
    SIZE: tl.constexpr,
):
    """Store weight Re(conj(U) G) at every frequency and its conjugate, U from phase_factors and G as a, b, c, d."""
    g1, h1, g2, h2 = complex_pairs(a, b, c, d, u, v)
    straight = ((r1 * g1 + i1 * h1) * weight).to(plane.dtype.element_ty)
    crossed = ((r2 * g2 + i2 * h2) * weight).to(plane.dtype.element_ty)
    u1, v1, u2, v2, u3, v3 = _frequencies(u, v, SIZE)
    corner = (u == 0) & (v == 0)
    tl.store(plane + (u * stride_h + v * stride_w), straight)
    tl.store(plane + (u1 * stride_h + v1 * stride_w), straight, mask=corner == 0)
    tl.store(plane + (u2 * stride_h + v2 * stride_w), crossed)
    tl.store(plane + (u3 * stride_h + v3 * stride_w), crossed, mask=corner == 0)
    # F(0,HALF) and F(HALF,0)
    b, c = (i1 * b * weight).to(plane.dtype.element_ty), (i2 * c * weight).to(plane.dtype.element_ty)
    tl.store(plane + (u * stride_h + (v + SIZE // 2) * stride_w), b, mask=corner)
    tl.store(plane + ((u + SIZE // 2) * stride_h + v * stride_w), c, mask=corner)
