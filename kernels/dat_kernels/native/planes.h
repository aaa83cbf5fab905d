// Reading and writing one H x W plane of a tensor as float32, whatever its dtype and layout, with crop and flip.
#pragma once

#include "lanes.h"
#include "arguments.h"

namespace DAT_ISA {

DAT_INLINE float from_bits(std::uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
DAT_INLINE std::uint32_t to_bits(float value) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

// One storage type per dtype; `get` widens exactly, `put` rounds to nearest, ties to even, and keeps NaN.
struct Float32 {
    float value;
    DAT_INLINE float get() const { return value; }
    DAT_INLINE void put(float x) { value = x; }
};
struct BFloat16 {
    std::uint16_t bits;
    DAT_INLINE float get() const { return from_bits(std::uint32_t(bits) << 16); }
    DAT_INLINE void put(float x) {
        const std::uint32_t b = to_bits(x);
        const std::uint32_t rounded = (b + 0x7FFFu + (b >> 16 & 1u)) >> 16;
        bits = std::uint16_t(x != x ? 0x7FC0u : rounded);
    }
};
struct Float16 {
    std::uint16_t bits;
    DAT_INLINE float get() const {
        // exponent and mantissa moved into place, then scaled by 2^112: exact, subnormal halves included
        const std::uint32_t magnitude = (bits & 0x7FFFu) << 13, sign = (bits & 0x8000u) << 16;
        const std::uint32_t special = magnitude >= 0x0F800000u ? 0x7F800000u | magnitude : 0u;
        const float finite = from_bits(magnitude) * from_bits(0x77800000u);
        return from_bits((special ? special : to_bits(finite)) | sign);
    }
    DAT_INLINE void put(float x) {
        const std::uint32_t b = to_bits(x), sign = b >> 16 & 0x8000u, magnitude = b & 0x7FFFFFFFu;
        const std::uint32_t normal = (magnitude + 0xFFFu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
        // adding 0.5 leaves the subnormal's mantissa, rounded by the adder, in the low bits
        const std::uint32_t subnormal = to_bits(from_bits(magnitude) + 0.5f) - 0x3F000000u;
        const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
        const std::uint32_t limited = magnitude >= 0x47800000u ? 0x7C00u : finite;
        bits = std::uint16_t((x != x ? 0x7E00u : limited) | sign);
    }
};

// Calls body(pointer of the right storage type).
template <class Body>
DAT_INLINE void with_storage(void* data, dat::Dtype dtype, Body&& body) {
    switch (dtype) {
        case dat::Dtype::float32: return body(static_cast<Float32*>(data));
        case dat::Dtype::bfloat16: return body(static_cast<BFloat16*>(data));
        case dat::Dtype::float16: return body(static_cast<Float16*>(data));
    }
}

struct PlaneIndex {
    std::ptrdiff_t sample, channel, channels, pixels;

    DAT_INLINE std::ptrdiff_t start(bool interleaved) const {
        return interleaved ? sample * channels * pixels + channel : (sample * channels + channel) * pixels;
    }
    DAT_INLINE std::ptrdiff_t stride(bool interleaved) const { return interleaved ? channels : 1; }
};

// Runs loop(stride) with the two strides that matter as constants, so that the compiler can vectorise each.
template <class Loop>
DAT_INLINE void with_stride(std::ptrdiff_t stride, Loop&& loop) {
    if (stride == 1) return loop(std::integral_constant<std::ptrdiff_t, 1>{});
    if (stride == 3) return loop(std::integral_constant<std::ptrdiff_t, 3>{});
    loop(stride);
}

// The plane as contiguous float32: in place where it already is, otherwise copied into `scratch`.
inline const float* read_plane(const dat::Images& images, const PlaneIndex& at, float* scratch) {
    const std::ptrdiff_t start = at.start(images.interleaved), stride = at.stride(images.interleaved);
    if (images.dtype == dat::Dtype::float32 && stride == 1) return static_cast<const float*>(images.data) + start;
    with_storage(images.data, images.dtype, [&](auto* data) {
        with_stride(stride, [&](auto step) {
            const auto* from = data + start;
            for (std::ptrdiff_t i = 0; i < at.pixels; ++i) scratch[i] = from[i * step].get();
        });
    });
    return scratch;
}

inline void write_plane(const dat::Images& images, const PlaneIndex& at, const float* plane) {
    const std::ptrdiff_t start = at.start(images.interleaved), stride = at.stride(images.interleaved);
    with_storage(images.data, images.dtype, [&](auto* data) {
        with_stride(stride, [&](auto step) {
            auto* to = data + start;
            for (std::ptrdiff_t i = 0; i < at.pixels; ++i) to[i * step].put(plane[i]);
        });
    });
}

// Where plane (b, c) may be written directly; null where it has to go through `write_plane`.
inline float* direct_plane(const dat::Images& images, const PlaneIndex& at) {
    if (images.dtype != dat::Dtype::float32 || at.stride(images.interleaved) != 1) return nullptr;
    return static_cast<float*>(images.data) + at.start(images.interleaved);
}

struct View {
    std::ptrdiff_t dy = 0, dx = 0;
    bool flip = false;

    DAT_INLINE bool moves() const { return dy != 0 || dx != 0 || flip; }
    // The crop and flip whose operator is this one's transpose.
    DAT_INLINE View adjoint() const { return {-dy, flip ? dx : -dx, flip}; }
};

DAT_INLINE View view_of(const dat::Views& views, std::ptrdiff_t sample) {
    View view;
    if (views.offsets) view.dy = views.offsets[2 * sample], view.dx = views.offsets[2 * sample + 1];
    if (views.flip) view.flip = views.flip[sample];
    return view;
}

DAT_INLINE float setting_of(const dat::Setting& setting, std::ptrdiff_t sample) {
    return setting.per_sample ? setting.per_sample[sample] : setting.value;
}

// to[y, x] = from[y + dy, x_ + dx], 0 outside. `from` and `to` must not overlap.
template <class T>
inline void move_plane(const T* from, T* to, std::ptrdiff_t height, std::ptrdiff_t width, const View& view) {
    // columns of the unflipped row whose source lies inside
    const std::ptrdiff_t first = view.dx < 0 ? (-view.dx < width ? -view.dx : width) : 0;
    const std::ptrdiff_t end = view.dx > 0 ? (view.dx < width ? width - view.dx : 0) : width;
    for (std::ptrdiff_t y = 0; y < height; ++y, to += width) {
        const std::ptrdiff_t source = y + view.dy;
        for (std::ptrdiff_t x = 0; x < width; ++x) to[x] = T{};
        if (source < 0 || source >= height) continue;
        const T* row = from + source * width + view.dx;
        if (view.flip) {
            for (std::ptrdiff_t x = first; x < end; ++x) to[width - 1 - x] = row[x];
        } else {
            for (std::ptrdiff_t x = first; x < end; ++x) to[x] = row[x];
        }
    }
}

}  // namespace DAT_ISA
