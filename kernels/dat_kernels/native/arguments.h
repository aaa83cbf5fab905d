// What the Python side hands over: raw memory of [B, C, H, W] tensors, planar (NCHW) or interleaved (channels_last),
// and the entry points that take it. Nothing here is compiled into code, so every instruction set may share it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dat {

enum class Dtype : int { float32 = 0, bfloat16 = 1, float16 = 2 };

struct Images {
    void* data = nullptr;  // null where an optional tensor is absent
    Dtype dtype = Dtype::float32;
    bool interleaved = false;
};

struct Shape {
    std::ptrdiff_t batch, channels, height, width;
};

// Crop and flip of a batch: out[y, x] = in[y + dy, x_ + dx], 0 outside, x_ = W - 1 - x where flipped.
struct Views {
    const std::int64_t* offsets;  // [B, 2] (dy, dx), or null
    const bool* flip;             // [B], or null
};

// One struct for the whole operation at 16, 32 and 64 pixels and for its pointwise parts at any other size.
struct Mix {
    Images images, amplitude, grad, out;
    const float* lam;          // [B]
    const float* generated;    // [B, C, H, W]: lam Re IFFT2(A_G U)
    float* spectrum;           // [B, C, H, W/2 + 1, 2]: FFT2(x), rewritten by `mix_spectrum`
    const float* grad_spectrum;
    Views views;
    Shape shape;
    int threads;
};

// One number for the whole batch, or one per sample.
struct Setting {
    float value;
    const float* per_sample;  // [B], or null where `value` counts
};

struct Step {
    Images adversarial, gradient, images, out, model_input;
    bool* active;
    bool active_interleaved;
    Setting step_size, epsilon;
    Shape shape;
    int threads;
};

struct Start {
    Images images, out;
    bool gaussian;
    Setting scale, epsilon;  // epsilon: infinity where the noise is not bounded
    std::uint64_t seed, offset;
    Shape shape;
    int threads;
};

struct Augment {
    const std::uint8_t* dataset;
    bool dataset_interleaved;
    const std::int64_t* indices;  // [B]
    Images out;
    Views views;
    Shape shape;
    int threads;
};

// The same functions for each instruction set.
struct Kernels {
    void (*mix)(const Mix&);
    void (*mix_backward)(const Mix&);
    void (*mix_spectrum)(const Mix&);
    void (*mix_blend)(const Mix&);
    void (*mix_mask)(const Mix&);
    void (*mix_grad_spectrum)(const Mix&);
    void (*pgd_step)(const Step&);
    void (*pgd_start)(const Start&);
    void (*augment)(const Augment&);
};

}  // namespace dat

#define DAT_DECLARE_KERNELS(ISA)                     \
    namespace ISA {                                  \
    void mix(const dat::Mix&);                       \
    void mix_backward(const dat::Mix&);              \
    void mix_spectrum(const dat::Mix&);              \
    void mix_blend(const dat::Mix&);                 \
    void mix_mask(const dat::Mix&);                  \
    void mix_grad_spectrum(const dat::Mix&);         \
    void pgd_step(const dat::Step&);                 \
    void pgd_start(const dat::Start&);               \
    void augment(const dat::Augment&);               \
    inline constexpr dat::Kernels KERNELS{           \
        mix,      mix_backward, mix_spectrum, mix_blend, mix_mask, mix_grad_spectrum, \
        pgd_step, pgd_start,    augment};            \
    }
