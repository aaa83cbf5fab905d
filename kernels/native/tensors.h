// What the Python side hands over: raw memory of [B, C, H, W] tensors, planar (NCHW) or interleaved (channels_last).
// Nothing here is compiled into code, so that every instruction set may share it.
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

// Crop and flip of a batch: out[y, x] = in[y + dy, x_ + dx], 0 outside, x_ = W - 1 - x where flipped.
struct Views {
    const std::int64_t* offsets = nullptr;  // [B, 2] (dy, dx)
    const bool* flip = nullptr;             // [B]
};

struct MixArguments {
    Images images, amplitude, grad, out;
    const float* lam;  // [B]
    Views views;
    std::ptrdiff_t batch, channels;
    int size;
    int threads;
};

}  // namespace dat
