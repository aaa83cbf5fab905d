// Vectors of L floats in GCC's vector extension, which clang shares: one source for AVX-512, AVX2, SSE2 and NEON.
//
// Every translation unit that includes this is compiled once per instruction set with its own DAT_ISA, and everything
// lives in that namespace: an inline function compiled for AVX-512 must never be the copy that the linker keeps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifndef DAT_ISA
#error "define DAT_ISA, the namespace of this instruction set, and DAT_LANES, its floats per vector"
#endif

#define DAT_INLINE inline __attribute__((always_inline))

namespace DAT_ISA {

template <int L>
struct Lanes {
    typedef float type __attribute__((vector_size(L * 4)));
    typedef std::int32_t mask __attribute__((vector_size(L * 4)));
};
template <int L>
using Vec = typename Lanes<L>::type;

template <int L>
DAT_INLINE Vec<L> load(const float* p) {
    Vec<L> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <int L>
DAT_INLINE void store(float* p, Vec<L> v) {
    __builtin_memcpy(p, &v, sizeof v);
}

template <int L>
DAT_INLINE Vec<L> splat(float value) {
    return Vec<L>{} + value;
}

// Lanes of a and b, numbered 0 .. L - 1 and L .. 2 L - 1, in the order given.
template <int L, int... J>
DAT_INLINE Vec<L> shuffle(Vec<L> a, Vec<L> b) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, J...);
#else
    return __builtin_shuffle(a, b, typename Lanes<L>::mask{J...});
#endif
}

// Calls body(integral_constant<0>) ... body(integral_constant<N - 1>), so that the index is a constant in each.
template <int N, class Body>
DAT_INLINE void unroll(Body&& body) {
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
        (body(std::integral_constant<int, I>{}), ...);
    }(std::make_integer_sequence<int, N>{});
}

// Transposes the L x L block whose rows are `rows`: off-diagonal sub-blocks of half the size change places, then a
// quarter, and so on.
template <int L, int STEP = L / 2>
DAT_INLINE void transpose(Vec<L>* rows) {
    [&]<int... J>(std::integer_sequence<int, J...>) __attribute__((always_inline)) {
        unroll<L>([&](auto index) __attribute__((always_inline)) {
            constexpr int i = decltype(index)::value;
            if constexpr ((i & STEP) == 0) {
                const Vec<L> a = rows[i], b = rows[i + STEP];
                rows[i] = shuffle<L, ((J & STEP) ? L + J - STEP : J)...>(a, b);
                rows[i + STEP] = shuffle<L, ((J & STEP) ? L + J : J + STEP)...>(a, b);
            }
        });
    }(std::make_integer_sequence<int, L>{});
    if constexpr (STEP > 1) transpose<L, STEP / 2>(rows);
}

// result[0] = next[0], result[j] = last[L - j]: one vector of a periodic row read backwards.
template <int L>
DAT_INLINE Vec<L> backwards(Vec<L> last, Vec<L> next) {
    return [&]<int... J>(std::integer_sequence<int, J...>) __attribute__((always_inline)) {
        return shuffle<L, (J == 0 ? L : L - J)...>(last, next);
    }(std::make_integer_sequence<int, L>{});
}

template <int L>
DAT_INLINE Vec<L> approximate_inverse_root(Vec<L> s) {
    if constexpr (L == 4) {
#if defined(__SSE2__)
        return (Vec<L>)_mm_rsqrt_ps((__m128)s);
#elif defined(__ARM_NEON)
        return (Vec<L>)vrsqrteq_f32((float32x4_t)s);
#endif
    }
#if defined(__AVX__)
    if constexpr (L == 8) return (Vec<L>)_mm256_rsqrt_ps((__m256)s);
#endif
#if defined(__AVX512F__)
    if constexpr (L == 16) return (Vec<L>)_mm512_maskz_rsqrt14_ps(0xFFFF, (__m512)s);
#endif
    Vec<L> result{};
    for (int j = 0; j < L; ++j) result[j] = 1.0f / __builtin_sqrtf(s[j]);
    return result;
}

// 1 / sqrt(s) to about one unit in the last place; not a number where s is 0.
template <int L>
DAT_INLINE Vec<L> inverse_root(Vec<L> s) {
    Vec<L> r = approximate_inverse_root<L>(s);
#if defined(__ARM_NEON)
    constexpr int refinements = 3;  // the estimate has 8 bits
#elif defined(__AVX512F__)
    constexpr int refinements = L == 16 ? 1 : 2;  // 14 bits, or 12
#else
    constexpr int refinements = 2;
#endif
    for (int i = 0; i < refinements; ++i) r = r + (r * 0.5f) * (1.0f - (s * r) * r);
    return r;
}

}  // namespace DAT_ISA
