// The step of projected gradient descent on one instruction set. Compiled without contraction of a * b + c, so that
// every float32 result has the bits of the eager expression.
#include "../native/planes.h"

namespace DAT_ISA {
namespace {

constexpr std::ptrdiff_t CHUNK = 1024;  // pixels in flight per thread: a few times 4 KiB, well inside the first cache

// Contiguous pixels of a part of the tensor; see `Walk`.
struct Run {
    std::ptrdiff_t part, first, count;
};

// The tensors are walked plane by plane, or, where all layouts agree, through flat memory: in one part, or in one part
// per sample where step size or epsilon differ from sample to sample.
struct Walk {
    dat::Shape shape;
    bool flat;
    std::ptrdiff_t length;  // values of a part

    DAT_INLINE PlaneIndex at(std::ptrdiff_t plane) const {
        return {plane / shape.channels, plane % shape.channels, shape.channels, shape.height * shape.width};
    }
    DAT_INLINE std::ptrdiff_t start(const Run& run, bool interleaved) const {
        if (flat) return run.part * length + run.first;
        const PlaneIndex index = at(run.part);
        return index.start(interleaved) + run.first * index.stride(interleaved);
    }
    // only asked for where values differ from sample to sample: a flat part is a sample then
    DAT_INLINE std::ptrdiff_t sample(const Run& run) const { return flat ? run.part : run.part / shape.channels; }
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

// The formula, on single floats and on vectors of them. Comparisons with NaN are false, hence the tests of a != a: NaN
// passes through eager's minimum, maximum and clamp.
template <class T>
struct Stepped {
    T value, low, high, boxed;

    DAT_INLINE Stepped(T adversarial, T gradient, T image, T step_size, T epsilon) {
        const T zero{};
        const T move = gradient > zero ? step_size : (gradient < zero ? zero - step_size : zero);
        value = adversarial + move;
        low = image - epsilon, high = image + epsilon;
        const T larger = ((value > low) | (value != value)) ? value : low;
        boxed = ((larger < high) | (larger != larger)) ? larger : high;
    }
    DAT_INLINE T clipped(T one) const {
        const T zero{}, positive = boxed < zero ? zero : boxed;
        return positive > one ? one : positive;
    }
    DAT_INLINE auto moves_with_image(T one) const {
        return ((value < low) | (value > high)) & (boxed >= T{}) & (boxed <= one);
    }
};

// `out` may be `adversarial`: each element is read before it is written.
template <bool ACTIVE>
DAT_INLINE void step_run(const float* adversarial, const float* gradient, const float* images, float step_size,
                         float epsilon, float* out, unsigned char* active, std::ptrdiff_t count) {
    constexpr int L = DAT_LANES;
    typedef unsigned char Bytes __attribute__((vector_size(L)));
    const Vec<L> step_sizes = splat<L>(step_size), epsilons = splat<L>(epsilon), ones = splat<L>(1.0f);
    std::ptrdiff_t i = 0;
    for (; i + L <= count; i += L) {
        const Stepped<Vec<L>> stepped(load<L>(adversarial + i), load<L>(gradient + i), load<L>(images + i), step_sizes,
                                      epsilons);
        store<L>(out + i, stepped.clipped(ones));
        if constexpr (ACTIVE) {
            const Bytes bytes = __builtin_convertvector(stepped.moves_with_image(ones), Bytes) & 1;
            __builtin_memcpy(active + i, &bytes, L);
        }
    }
    for (; i < count; ++i) {
        const Stepped<float> stepped(adversarial[i], gradient[i], images[i], step_size, epsilon);
        out[i] = stepped.clipped(1.0f);
        if constexpr (ACTIVE) active[i] = stepped.moves_with_image(1.0f);
    }
}

}  // namespace

void pgd_step(const dat::Step& a) {
    const bool layout = a.images.interleaved;
    const bool same_layout = a.adversarial.interleaved == layout && a.gradient.interleaved == layout &&
                             a.out.interleaved == layout &&
                             (!a.model_input.data || a.model_input.interleaved == layout) &&
                             (!a.active || a.active_interleaved == layout);
    const bool per_sample = a.step_size.per_sample || a.epsilon.per_sample;
    const std::ptrdiff_t pixels = a.shape.height * a.shape.width, planes = a.shape.batch * a.shape.channels;
    const std::ptrdiff_t parts = !same_layout ? planes : per_sample ? a.shape.batch : 1;
    const Walk walk{a.shape, same_layout, planes * pixels / parts};
    const std::ptrdiff_t chunks = (walk.length + CHUNK - 1) / CHUNK;
    const bool direct = a.out.dtype == dat::Dtype::float32 && walk.stride(a.out.interleaved) == 1;
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (std::ptrdiff_t index = 0; index < parts * chunks; ++index) {
        alignas(64) float scratch[3][CHUNK], result[CHUNK];
        alignas(64) unsigned char active[CHUNK];
        const std::ptrdiff_t part = parts == 1 ? 0 : index / chunks;  // no division in the common case
        Run run{part, (index - part * chunks) * CHUNK, CHUNK};
        if (run.first + run.count > walk.length) run.count = walk.length - run.first;
        const std::ptrdiff_t sample = per_sample ? walk.sample(run) : 0;
        const float step_size = setting_of(a.step_size, sample), epsilon = setting_of(a.epsilon, sample);
        const float* adversarial = walk.read(a.adversarial, run, scratch[0]);
        const float* gradient = walk.read(a.gradient, run, scratch[1]);
        const float* images = walk.read(a.images, run, scratch[2]);
        float* out = direct ? static_cast<float*>(a.out.data) + walk.start(run, a.out.interleaved) : result;
        if (a.active) {
            step_run<true>(adversarial, gradient, images, step_size, epsilon, out, active, run.count);
            bool* to = a.active + walk.start(run, a.active_interleaved);
            const std::ptrdiff_t stride = walk.stride(a.active_interleaved);
            for (std::ptrdiff_t i = 0; i < run.count; ++i) to[i * stride] = active[i];
        } else {
            step_run<false>(adversarial, gradient, images, step_size, epsilon, out, active, run.count);
        }
        if (!direct) walk.write(a.out, run, out);
        if (a.model_input.data) walk.write(a.model_input, run, out);
    }
}

}  // namespace DAT_ISA
