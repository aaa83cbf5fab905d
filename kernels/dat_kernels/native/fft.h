// Fourier transforms of 16, 32 and 64 points over vectors: every lane carries its own transform.
//
// Radix-2 decimation in time, unrolled by templates, with six fused operations per butterfly: the real part of w o is
// c (o_r + t o_i), t = s / c (or the other way round where |s| > |c|), so that the factor c joins the addition. No
// transform is normalised. Equal inputs give exact zeros, which the phase factor of a flat image relies on.
#pragma once

#include "lanes.h"

namespace DAT_ISA {

constexpr double PI = 3.14159265358979323846;

// cos(2 pi k / n) and sin, from the series on the first eighth of the circle, so that 0 and 1 are exact.
constexpr double small_cosine(double x) {
    double term = 1, sum = 1;
    for (int i = 1; i < 14; ++i) sum += (term *= -x * x / ((2 * i - 1) * (2 * i)));
    return sum;
}
constexpr double small_sine(double x) {
    double term = x, sum = x;
    for (int i = 1; i < 14; ++i) sum += (term *= -x * x / ((2 * i) * (2 * i + 1)));
    return sum;
}
constexpr double cosine(int k, int n) {
    k = ((k % n) + n) % n;
    if (2 * k > n) k = n - k;
    if (4 * k > n) return -cosine(n - 2 * k, 2 * n);
    return 8 * k <= n ? small_cosine(2 * PI * k / n) : small_sine(2 * PI * (n - 4 * k) / (4.0 * n));
}
constexpr double sine(int k, int n) { return cosine(4 * k - n, 4 * n); }

// (e, o) -> (e + w o, e - w o), w = exp(-2 pi i K / N)
template <int K, int N, class V>
DAT_INLINE void butterfly(V er, V ei, V odd_r, V odd_i, V& plus_r, V& plus_i, V& minus_r, V& minus_i) {
    if constexpr (K == 0) {
        plus_r = er + odd_r, plus_i = ei + odd_i, minus_r = er - odd_r, minus_i = ei - odd_i;
    } else if constexpr (4 * K == N) {
        plus_r = er + odd_i, plus_i = ei - odd_r, minus_r = er - odd_i, minus_i = ei + odd_r;
    } else {
        constexpr double c = cosine(K, N), s = sine(K, N);
        if constexpr (c * c >= s * s) {
            constexpr float t = float(s / c), f = float(c);
            const V p = odd_r + t * odd_i, q = odd_i - t * odd_r;
            plus_r = er + f * p, plus_i = ei + f * q, minus_r = er - f * p, minus_i = ei - f * q;
        } else {
            constexpr float t = float(c / s), f = float(s);
            const V p = odd_i + t * odd_r, q = odd_r - t * odd_i;
            plus_r = er + f * p, plus_i = ei - f * q, minus_r = er - f * p, minus_i = ei + f * q;
        }
    }
}

// out[j] = sum_n in[n STRIDE] z^n at z = exp(-2 pi i (K / N + j / COUNT)), j < COUNT
template <int COUNT, int N, int K, int STRIDE, class V>
DAT_INLINE void evaluate(const V* in_r, const V* in_i, V* out_r, V* out_i) {
    if constexpr (COUNT == 1) {
        out_r[0] = in_r[0], out_i[0] = in_i[0];
    } else {
        constexpr int half = COUNT / 2;
        V er[half], ei[half], odd_r[half], odd_i[half];
        evaluate<half, N / 2, K, 2 * STRIDE>(in_r, in_i, er, ei);
        evaluate<half, N / 2, K, 2 * STRIDE>(in_r + STRIDE, in_i + STRIDE, odd_r, odd_i);
        unroll<half>([&](auto index) __attribute__((always_inline)) {
            constexpr int j = decltype(index)::value;
            butterfly<K + N / COUNT * j, N>(er[j], ei[j], odd_r[j], odd_i[j], out_r[j], out_i[j], out_r[j + half],
                                            out_i[j + half]);
        });
    }
}

// Forward complex transform of N points in two passes that each fit the registers. Pass the two parts in exchanged
// roles (in and out) for the backward one. `in` and `out` must not overlap.
template <int N, class V>
DAT_INLINE void complex_transform(const V* in_r, const V* in_i, V* out_r, V* out_i) {
    constexpr int inner = N == 16 ? 4 : 8, outer = N / inner;
    V mid_r[N], mid_i[N];  // [k2][n1]
    for (int n1 = 0; n1 < outer; ++n1) {
        V r[inner], i[inner];
        evaluate<inner, inner, 0, outer>(in_r + n1, in_i + n1, r, i);
        unroll<inner>([&](auto index) __attribute__((always_inline)) {
            constexpr int k = decltype(index)::value;
            mid_r[k * outer + n1] = r[k], mid_i[k * outer + n1] = i[k];
        });
    }
    unroll<inner>([&](auto index) __attribute__((always_inline)) {
        constexpr int k = decltype(index)::value;
        V r[outer], i[outer];
        evaluate<outer, N, k, 1>(mid_r + k * outer, mid_i + k * outer, r, i);
        unroll<outer>([&](auto j) __attribute__((always_inline)) {
            out_r[k + inner * decltype(j)::value] = r[decltype(j)::value];
            out_i[k + inner * decltype(j)::value] = i[decltype(j)::value];
        });
    });
}

// Real transform of x[0], x[STRIDE], ... to frequencies 0 .. N/2 - 1; frequency N/2, real as frequency 0 is, takes the
// place of im[0].
template <int N, int STRIDE, class V>
DAT_INLINE void real_forward(const V* x, V* re, V* im) {
    if constexpr (N == 2) {
        re[0] = x[0] + x[STRIDE], im[0] = x[0] - x[STRIDE];
    } else {
        constexpr int half = N / 2, quarter = N / 4;
        V er[quarter], ei[quarter], odd_r[quarter], odd_i[quarter];
        real_forward<half, 2 * STRIDE>(x, er, ei);
        real_forward<half, 2 * STRIDE>(x + STRIDE, odd_r, odd_i);
        re[0] = er[0] + odd_r[0], im[0] = er[0] - odd_r[0];
        re[quarter] = ei[0], im[quarter] = -odd_i[0];
        unroll<quarter>([&](auto index) __attribute__((always_inline)) {
            constexpr int k = decltype(index)::value;
            if constexpr (k > 0) {
                butterfly<k, N>(er[k], ei[k], odd_r[k], odd_i[k], re[k], im[k], re[half - k], im[half - k]);
                im[half - k] = -im[half - k];
            }
        });
    }
}

// The backward transform of what `real_forward` returns, N times its inverse.
template <int N, int STRIDE, class V>
DAT_INLINE void real_backward(const V* re, const V* im, V* x) {
    if constexpr (N == 2) {
        x[0] = re[0] + im[0], x[STRIDE] = re[0] - im[0];
    } else {
        constexpr int half = N / 2, quarter = N / 4;
        V er[quarter], ei[quarter], odd_r[quarter], odd_i[quarter];
        er[0] = re[0] + im[0], odd_r[0] = re[0] - im[0];
        ei[0] = 2.0f * re[quarter], odd_i[0] = -2.0f * im[quarter];
        unroll<quarter>([&](auto index) __attribute__((always_inline)) {
            constexpr int k = decltype(index)::value;
            if constexpr (k > 0) {
                constexpr float c = float(cosine(k, N)), s = float(sine(k, N));
                const V dr = re[k] - re[half - k], di = im[k] + im[half - k];
                er[k] = re[k] + re[half - k], ei[k] = im[k] - im[half - k];
                odd_r[k] = c * dr - s * di, odd_i[k] = c * di + s * dr;
            }
        });
        real_backward<half, 2 * STRIDE>(er, ei, x);
        real_backward<half, 2 * STRIDE>(odd_r, odd_i, x + STRIDE);
    }
}

}  // namespace DAT_ISA
