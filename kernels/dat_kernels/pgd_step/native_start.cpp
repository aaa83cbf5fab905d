// The random start: Philox4x32-10 and Box and Muller's transform, 64 values at a time. `philox.py` defines the values.
// Compiled without contraction, so that the uniform start has the same bits everywhere.
#include "../native/planes.h"

namespace DAT_ISA {
namespace {

constexpr int BLOCKS = 16, VALUES = 4 * BLOCKS;

struct Words {
    std::uint32_t word[4][BLOCKS];
};

// 64-bit lanes that hold 32-bit words: the products need the room.
typedef std::uint64_t Wide __attribute__((vector_size(DAT_LANES * 4)));
constexpr int WIDE = DAT_LANES / 2;

// a * b of lanes below 2^32. The compilers do not see that and would build a full 64-bit product.
DAT_INLINE Wide product(Wide a, std::uint64_t b) {
#if defined(__AVX512F__)
    return (Wide)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, _mm512_set1_epi64(std::int64_t(b)));
#elif defined(__AVX2__)
    return (Wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(std::int64_t(b)));
#elif defined(__SSE2__)
    return (Wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(std::int64_t(b)));
#else
    return a * b;
#endif
}

DAT_INLINE Words philox(std::uint64_t first_block, std::uint64_t seed, std::uint64_t offset) {
    Words words;
    for (int first = 0; first < BLOCKS; first += WIDE) {
        Wide block;
        for (int j = 0; j < WIDE; ++j) block[j] = first_block + std::uint64_t(first + j);
        Wide c0 = block & 0xFFFFFFFFu, c1 = block >> 32;
        Wide c2 = Wide{} + (offset & 0xFFFFFFFFu), c3 = Wide{} + (offset >> 32);
        std::uint32_t low = std::uint32_t(seed), high = std::uint32_t(seed >> 32);
        for (int round = 0; round < 10; ++round, low += 0x9E3779B9u, high += 0xBB67AE85u) {
            const Wide even = product(c0, 0xD2511F53u), odd = product(c2, 0xCD9E8D57u);
            c0 = (odd >> 32) ^ c1 ^ std::uint64_t(low), c1 = odd & 0xFFFFFFFFu;
            c2 = (even >> 32) ^ c3 ^ std::uint64_t(high), c3 = even & 0xFFFFFFFFu;
        }
        for (int j = 0; j < WIDE; ++j) {
            words.word[0][first + j] = std::uint32_t(c0[j]), words.word[1][first + j] = std::uint32_t(c1[j]);
            words.word[2][first + j] = std::uint32_t(c2[j]), words.word[3][first + j] = std::uint32_t(c3[j]);
        }
    }
    return words;
}

// -2 ln(count 2^-24), count in [1, 2^24]. The mantissa is brought to [sqrt(1/2), sqrt(2)) and ln((1 + z)/(1 - z)) =
// 2 z (1 + z^2/3 + z^4/5 + ...) is cut where z^2 <= 0.0295 leaves less than a float's last bit.
DAT_INLINE float minus_two_log(std::uint32_t count) {
    const std::uint32_t bits = to_bits(float(count));
    const std::uint32_t shifted = bits - 0x3F3504F3u;  // 0x3F3504F3 = sqrt(1/2)
    const std::int32_t exponent = std::int32_t(shifted) >> 23;
    const float m = from_bits(bits - (std::uint32_t(exponent) << 23));
    const float z = (m - 1.0f) / (m + 1.0f), z2 = z * z;
    const float series = z2 * (1.0f / 3 + z2 * (1.0f / 5 + z2 * (1.0f / 7 + z2 * (1.0f / 9 + z2 * (1.0f / 11)))));
    const float log_m = 2.0f * z + 2.0f * z * series;
    const float octaves = float(exponent - 24);
    // ln 2 in two parts, the first short enough for its product with the exponent to be exact
    return -2.0f * ((log_m + octaves * 1.42860677e-6f) + octaves * 0.693145752f);
}

// cos and sin of 2 pi turns 2^-24: the quarter turn comes off the integer, so nothing is rounded before the series.
DAT_INLINE void cosine_and_sine(std::uint32_t turns, float& cosine, float& sine) {
    const std::uint32_t quarter = (turns + 0x200000u) >> 22;
    const float angle = float(std::int32_t(turns - (quarter << 22))) * (6.28318530717958648f / 16777216.0f);
    const float a2 = angle * angle;
    const float s = angle + angle * a2 * (-1.0f / 6 + a2 * (1.0f / 120 + a2 * (-1.0f / 5040 + a2 * (1.0f / 362880))));
    const float c = 1.0f + a2 * (-0.5f + a2 * (1.0f / 24 + a2 * (-1.0f / 720 + a2 * (1.0f / 40320))));
    const float swapped_c = quarter & 1u ? s : c, swapped_s = quarter & 1u ? c : s;
    cosine = from_bits(to_bits(swapped_c) ^ (((quarter + 1u) & 2u) << 30));
    sine = from_bits(to_bits(swapped_s) ^ ((quarter & 2u) << 30));
}

DAT_INLINE void draw(const Words& words, bool gaussian, float* values) {
    if (!gaussian) {
#pragma omp simd
        for (int j = 0; j < BLOCKS; ++j)
            for (int k = 0; k < 4; ++k)
                values[4 * j + k] = float(std::int32_t(words.word[k][j] >> 8)) * 0x1p-23f - 1.0f;
        return;
    }
    alignas(64) float columns[4][BLOCKS];
    for (int k = 0; k < 4; k += 2) {
#pragma omp simd
        for (int j = 0; j < BLOCKS; ++j) {
            const float radius = __builtin_sqrtf(minus_two_log((words.word[k][j] >> 8) + 1u));
            float cosine, sine;
            cosine_and_sine(words.word[k + 1][j] >> 8, cosine, sine);
            columns[k][j] = radius * cosine, columns[k + 1][j] = radius * sine;
        }
    }
    for (int j = 0; j < BLOCKS; ++j)
        for (int k = 0; k < 4; ++k) values[4 * j + k] = columns[k][j];
}

}  // namespace

void pgd_start(const dat::Start& a) {
    const std::ptrdiff_t pixels = a.shape.height * a.shape.width;
    const std::ptrdiff_t length = a.shape.batch * a.shape.channels * pixels;
    const bool per_sample = a.scale.per_sample || a.epsilon.per_sample;
    // values that share scale and epsilon
    const std::ptrdiff_t sharing = per_sample ? a.shape.channels * pixels : length;
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (std::ptrdiff_t group = 0; group < (length + VALUES - 1) / VALUES; ++group) {
        alignas(64) float noise[VALUES];
        draw(philox(std::uint64_t(group) * BLOCKS, a.seed, a.offset), a.gaussian, noise);
        const std::ptrdiff_t first = group * VALUES, count = length - first < VALUES ? length - first : VALUES;
        const auto finish = [&](float x, float n, float scale, float epsilon) __attribute__((always_inline)) {
            float v = x + scale * n;
            const float low = x - epsilon, high = x + epsilon;
            v = v < low ? low : v;
            v = v > high ? high : v;
            v = v < 0.0f ? 0.0f : v;
            return v > 1.0f ? 1.0f : v;
        };
        with_storage(a.images.data, a.images.dtype, [&](auto* from) {
            auto* to = static_cast<decltype(from)>(a.out.data);
            if (!a.images.interleaved && !a.out.interleaved) {
                std::ptrdiff_t sample = per_sample ? first / sharing : 0;
                for (std::ptrdiff_t i = 0; i < count; ++sample) {
                    const std::ptrdiff_t rest = (sample + 1) * sharing - first, end = rest < count ? rest : count;
                    const float scale = setting_of(a.scale, sample), epsilon = setting_of(a.epsilon, sample);
                    for (; i < end; ++i)
                        to[first + i].put(finish(from[first + i].get(), noise[i], scale, epsilon));
                }
            } else {
                std::ptrdiff_t plane = first / pixels, pixel = first % pixels;
                for (std::ptrdiff_t i = 0; i < count; pixel = 0, ++plane) {
                    const PlaneIndex at{plane / a.shape.channels, plane % a.shape.channels, a.shape.channels, pixels};
                    const std::ptrdiff_t source = at.start(a.images.interleaved), target = at.start(a.out.interleaved);
                    const float scale = setting_of(a.scale, at.sample), epsilon = setting_of(a.epsilon, at.sample);
                    for (; i < count && pixel < pixels; ++i, ++pixel)
                        to[target + pixel * at.stride(a.out.interleaved)].put(
                            finish(from[source + pixel * at.stride(a.images.interleaved)].get(), noise[i], scale,
                                   epsilon));
                }
            }
        });
    }
}

}  // namespace DAT_ISA
