// The step of projected gradient descent on one instruction set. Compiled without contraction of a * b + c, so that every
// float32 result has the bits of the eager expression.
#include "../native/planes.h"

namespace DAT_ISA {
namespace {

constexpr std::ptrdiff_t CHUNK = 1024;  // pixels in flight per thread: a few times 4 KiB, well inside the first cache

// Contiguous pixels of a tensor: one plane, or the whole tensor where all tensors have the same layout.
struct Run {
    std::ptrdiff_t plane, first, count;
};

struct Walk {
    dat::Shape shape;
    bool flat;  // all layouts agree: the tensors are walked as one run of memory

    DAT_INLINE PlaneIndex at(std::ptrdiff_t plane) const {
        return {plane / shape.channels, plane % shape.channels, shape.channels, shape.height * shape.width};
    }
    DAT_INLINE std::ptrdiff_t start(const Run& run, bool interleaved) const {
        if (flat) return run.first;
        const PlaneIndex index = at(run.plane);
        return index.start(interleaved) + run.first * index.stride(interleaved);
    }
    DAT_INLINE std::ptrdiff_t stride(bool interleaved) const { return flat || !interleaved ? 1 : shape.channels; }

    DAT_INLINE const float* read(const dat::Images& images, const Run& run, float* scratch) const {
        const std::ptrdiff_t from = start(run, images.interleaved), step = stride(images.interleaved);
        if (images.dtype == dat::Dtype::float32 && step == 1) return static_cast<const float*>(images.data) + from;
        with_storage(images.data, images.dtype, [&](auto* data) {
            with_stride(step, [&](auto s) {
                for (std::ptrdiff_t i = 0; i < run.count; ++i) scratch[i] = data[from + i * s].get();
            });
        });
        return scratch;
    }
    DAT_INLINE void write(const dat::Images& images, const Run& run, const float* values) const {
        const std::ptrdiff_t to = start(run, images.interleaved), step = stride(images.interleaved);
        with_storage(images.data, images.dtype, [&](auto* data) {
            with_stride(step, [&](auto s) {
                for (std::ptrdiff_t i = 0; i < run.count; ++i) data[to + i * s].put(values[i]);
            });
        });
    }
};

// Eager's minimum, maximum and clamp: NaN passes through.
DAT_INLINE float larger(float a, float b) { return (a > b) | (a != a) ? a : b; }
DAT_INLINE float smaller(float a, float b) { return (a < b) | (a != a) ? a : b; }
DAT_INLINE float clip(float v) {
    v = v < 0.0f ? 0.0f : v;
    return v > 1.0f ? 1.0f : v;
}

// `out` may be `adversarial`: each element is read before it is written.
template <bool ACTIVE>
DAT_INLINE void step_run(const float* adversarial, const float* gradient, const float* images, float step_size,
                         float epsilon, float* out, unsigned char* active, std::ptrdiff_t count) {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        const float g = gradient[i];
        const float move = g > 0.0f ? step_size : (g < 0.0f ? -step_size : 0.0f);
        const float stepped = adversarial[i] + move;
        const float low = images[i] - epsilon, high = images[i] + epsilon;
        const float boxed = smaller(larger(stepped, low), high);
        if (ACTIVE) active[i] = ((stepped < low) | (stepped > high)) & (boxed >= 0.0f) & (boxed <= 1.0f);
        out[i] = clip(boxed);
    }
}

}  // namespace

void pgd_step(const dat::Step& a) {
    const bool layout = a.images.interleaved;
    Walk walk{a.shape, a.adversarial.interleaved == layout && a.gradient.interleaved == layout &&
                           a.out.interleaved == layout && (!a.model_input.data || a.model_input.interleaved == layout) &&
                           (!a.active || a.active_interleaved == layout)};
    const std::ptrdiff_t pixels = a.shape.height * a.shape.width, planes = a.shape.batch * a.shape.channels;
    const std::ptrdiff_t length = walk.flat ? planes * pixels : pixels, chunks = (length + CHUNK - 1) / CHUNK;
    const bool direct = a.out.dtype == dat::Dtype::float32 && walk.stride(a.out.interleaved) == 1;
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (std::ptrdiff_t index = 0; index < (walk.flat ? chunks : planes * chunks); ++index) {
        alignas(64) float scratch[3][CHUNK], result[CHUNK];
        alignas(64) unsigned char active[CHUNK];
        Run run{walk.flat ? 0 : index / chunks, index % chunks * CHUNK, CHUNK};
        if (run.first + run.count > length) run.count = length - run.first;
        const float* adversarial = walk.read(a.adversarial, run, scratch[0]);
        const float* gradient = walk.read(a.gradient, run, scratch[1]);
        const float* images = walk.read(a.images, run, scratch[2]);
        float* out = direct ? static_cast<float*>(a.out.data) + walk.start(run, a.out.interleaved) : result;
        if (a.active) {
            step_run<true>(adversarial, gradient, images, a.step_size, a.epsilon, out, active, run.count);
            bool* to = a.active + walk.start(run, a.active_interleaved);
            const std::ptrdiff_t stride = walk.stride(a.active_interleaved);
            for (std::ptrdiff_t i = 0; i < run.count; ++i) to[i * stride] = active[i];
        } else {
            step_run<false>(adversarial, gradient, images, a.step_size, a.epsilon, out, active, run.count);
        }
        if (!direct) walk.write(a.out, run, out);
        if (a.model_input.data) walk.write(a.model_input, run, out);
    }
}

}  // namespace DAT_ISA
