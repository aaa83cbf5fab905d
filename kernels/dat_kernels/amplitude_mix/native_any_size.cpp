// The pointwise parts of the amplitude mix around torch.fft's half spectrum, for sizes without a fast path.
#include "../native/planes.h"

namespace DAT_ISA {
namespace {

struct Phase {
    float re, im;
};

// X / |X|, 1 where X = 0; scaled by 2^40 so that squares do not vanish.
DAT_INLINE Phase phase_factor(float re, float im) {
    re *= 0x1p40f, im *= 0x1p40f;
    const float square = re * re + im * im, inverse = 1.0f / __builtin_sqrtf(square);
    return {square == 0.0f ? 1.0f : re * inverse, square == 0.0f ? 0.0f : im * inverse};
}

DAT_INLINE PlaneIndex plane_index(const dat::Mix& a, std::ptrdiff_t plane) {
    return {plane / a.shape.channels, plane % a.shape.channels, a.shape.channels, a.shape.height * a.shape.width};
}

DAT_INLINE float before_clip(float lam, float x, float generated) { return (1.0f - lam) * x + generated; }

}  // namespace

// spectrum <- lam (A(k) + A(-k)) / 2 U(k)
void mix_spectrum(const dat::Mix& a) {
    const std::ptrdiff_t height = a.shape.height, width = a.shape.width, half = width / 2 + 1;
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (std::ptrdiff_t plane = 0; plane < a.shape.batch * a.shape.channels; ++plane) {
        const PlaneIndex at = plane_index(a, plane);
        const float factor = 0.5f * a.lam[at.sample];
        const float* amplitude = static_cast<const float*>(a.amplitude.data) + plane * at.pixels;
        for (std::ptrdiff_t u = 0; u < height; ++u) {
            float* row = a.spectrum + (plane * height + u) * half * 2;
            const float *same = amplitude + u * width, *opposite = amplitude + (height - u) % height * width;
            for (std::ptrdiff_t v = 0; v < half; ++v) {
                const Phase phase = phase_factor(row[2 * v], row[2 * v + 1]);
                const float scale = factor * (same[v] + opposite[v == 0 ? 0 : width - v]);
                row[2 * v] = scale * phase.re, row[2 * v + 1] = scale * phase.im;
            }
        }
    }
}

// out <- crop and flip of clip01((1 - lam) x + generated)
void mix_blend(const dat::Mix& a) {
    const std::ptrdiff_t pixels = a.shape.height * a.shape.width;
#pragma omp parallel num_threads(a.threads)
    {
        float* scratch = new float[3 * pixels];
#pragma omp for schedule(static)
        for (std::ptrdiff_t plane = 0; plane < a.shape.batch * a.shape.channels; ++plane) {
            const PlaneIndex at = plane_index(a, plane);
            const float *x = read_plane(a.images, at, scratch), *generated = a.generated + plane * pixels;
            const float lam = a.lam[at.sample];
            const View view = view_of(a.views, at.sample);
            float* direct = direct_plane(a.out, at);
            float* last = direct ? direct : scratch + 2 * pixels;
            float* first = view.moves() ? scratch + pixels : last;
            for (std::ptrdiff_t i = 0; i < pixels; ++i) {
                const float v = before_clip(lam, x[i], generated[i]), below = v > 1.0f ? 1.0f : v;
                first[i] = below < 0.0f ? 0.0f : below;
            }
            if (view.moves()) move_plane(first, last, a.shape.height, a.shape.width, view);
            if (!direct) write_plane(a.out, at, last);
        }
        delete[] scratch;
    }
}

// out <- adjoint crop and flip of grad, where (1 - lam) x + generated lies in [0, 1]
void mix_mask(const dat::Mix& a) {
    const std::ptrdiff_t pixels = a.shape.height * a.shape.width;
    float* out = static_cast<float*>(a.out.data);
#pragma omp parallel num_threads(a.threads)
    {
        float* scratch = new float[2 * pixels];
#pragma omp for schedule(static)
        for (std::ptrdiff_t plane = 0; plane < a.shape.batch * a.shape.channels; ++plane) {
            const PlaneIndex at = plane_index(a, plane);
            const float *x = read_plane(a.images, at, scratch), *generated = a.generated + plane * pixels;
            const float* grad = read_plane(a.grad, at, scratch + pixels);
            const float lam = a.lam[at.sample];
            float* to = out + plane * pixels;
            move_plane(grad, to, a.shape.height, a.shape.width, view_of(a.views, at.sample).adjoint());
            for (std::ptrdiff_t i = 0; i < pixels; ++i) {
                const float v = before_clip(lam, x[i], generated[i]);
                to[i] = ((v >= 0.0f) & (v <= 1.0f)) ? to[i] : 0.0f;
            }
        }
        delete[] scratch;
    }
}

// out <- lam / (HW) Re(conj(U) G), written at k and -k
void mix_grad_spectrum(const dat::Mix& a) {
    const std::ptrdiff_t height = a.shape.height, width = a.shape.width, half = width / 2 + 1;
#pragma omp parallel num_threads(a.threads)
    {
        float* scratch = new float[height * width];
#pragma omp for schedule(static)
        for (std::ptrdiff_t plane = 0; plane < a.shape.batch * a.shape.channels; ++plane) {
            const PlaneIndex at = plane_index(a, plane);
            const float factor = a.lam[at.sample] / float(at.pixels);
            float* direct = direct_plane(a.out, at);
            float* out = direct ? direct : scratch;
            for (std::ptrdiff_t u = 0; u < height; ++u) {
                const float* spectrum = a.spectrum + (plane * height + u) * half * 2;
                const float* grad = a.grad_spectrum + (plane * height + u) * half * 2;
                float *row = out + u * width, *opposite = out + (height - u) % height * width;
                for (std::ptrdiff_t v = 0; v < half; ++v) {
                    const Phase phase = phase_factor(spectrum[2 * v], spectrum[2 * v + 1]);
                    const float value = factor * (phase.re * grad[2 * v] + phase.im * grad[2 * v + 1]);
                    row[v] = value;
                    // column 0 and, for even widths, the middle one have their mirror images in the half itself
                    if (v > 0 && 2 * v < width) opposite[width - v] = value;
                }
            }
            if (!direct) write_plane(a.out, at, out);
        }
        delete[] scratch;
    }
}

}  // namespace DAT_ISA
