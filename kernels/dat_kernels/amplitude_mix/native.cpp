// The amplitude mix of 16, 32 and 64 pixel planes on one instruction set; README.md derives it.
//
// A plane of N x N pixels, M = N / 2, is transformed along y first, with columns in the lanes. Rows 0 and M of the
// result are real and share row 0, as its real and imaginary part. The M complex rows are then transposed and
// transformed along x with rows in the lanes, so that row pair (0, M) is lane 0 of the first group and is taken apart
// there.
#include "../native/fft.h"
#include "../native/planes.h"

namespace DAT_ISA {
namespace {

template <int N>
struct PlaneMix {
    static constexpr int M = N / 2, L = DAT_LANES < M ? DAT_LANES : M, ROW_GROUPS = M / L, COLUMN_GROUPS = N / L;
    using V = Vec<L>;

    // [group of rows][column][row of the group]
    struct alignas(64) Spectrum {
        V re[ROW_GROUPS][N], im[ROW_GROUPS][N];
    };
    // the pair of rows (0, M) taken apart
    struct alignas(64) Pair {
        float zero_re[N], zero_im[N], middle_re[N], middle_im[N];
    };
    struct alignas(64) Rows {
        float re[M * N], im[M * N];
    };

    static DAT_INLINE void rows_to_lanes(const float* rows, int group, V* lanes) {
        for (int g = 0; g < COLUMN_GROUPS; ++g) {
            V block[L];
            unroll<L>([&](auto j) __attribute__((always_inline)) {
                block[j] = load<L>(rows + (group * L + decltype(j)::value) * N + g * L);
            });
            transpose<L>(block);
            unroll<L>([&](auto j) __attribute__((always_inline)) { lanes[g * L + j] = block[j]; });
        }
    }

    static DAT_INLINE void lanes_to_rows(const V* lanes, int group, float* rows) {
        for (int g = 0; g < COLUMN_GROUPS; ++g) {
            V block[L];
            unroll<L>([&](auto j) __attribute__((always_inline)) { block[j] = lanes[g * L + j]; });
            transpose<L>(block);
            unroll<L>([&](auto j) __attribute__((always_inline)) {
                store<L>(rows + (group * L + decltype(j)::value) * N + g * L, block[j]);
            });
        }
    }

    static void forward(const float* x, Spectrum& spectrum) {
        Rows rows;
        for (int g = 0; g < COLUMN_GROUPS; ++g) {
            V in[N], re[M], im[M];
            unroll<N>([&](auto y) __attribute__((always_inline)) { in[y] = load<L>(x + y * N + g * L); });
            real_forward<N, 1>(in, re, im);
            unroll<M>([&](auto u) __attribute__((always_inline)) {
                store<L>(rows.re + u * N + g * L, re[u]);
                store<L>(rows.im + u * N + g * L, im[u]);
            });
        }
        for (int h = 0; h < ROW_GROUPS; ++h) {
            V re[N], im[N];
            rows_to_lanes(rows.re, h, re);
            rows_to_lanes(rows.im, h, im);
            complex_transform<N>(re, im, spectrum.re[h], spectrum.im[h]);
        }
    }

    // Calls finish(y, first column, vector) for every vector of the result.
    template <class Finish>
    static DAT_INLINE void backward(const Spectrum& spectrum, Finish&& finish) {
        Rows rows;
        for (int h = 0; h < ROW_GROUPS; ++h) {
            V re[N], im[N];
            complex_transform<N>(spectrum.im[h], spectrum.re[h], im, re);
            lanes_to_rows(re, h, rows.re);
            lanes_to_rows(im, h, rows.im);
        }
        for (int g = 0; g < COLUMN_GROUPS; ++g) {
            V re[M], im[M], out[N];
            unroll<M>([&](auto u) __attribute__((always_inline)) {
                re[u] = load<L>(rows.re + u * N + g * L);
                im[u] = load<L>(rows.im + u * N + g * L);
            });
            real_backward<N, 1>(re, im, out);
            unroll<N>([&](auto y) __attribute__((always_inline)) { finish(decltype(y)::value, g * L, out[y]); });
        }
    }

    // Lane 0 of the first group: Z = F_0 + i F_M, both of real signals, so F_0 = (Z(v) + conj Z(-v)) / 2 and so on.
    static void take_apart(const Spectrum& spectrum, Pair& pair) {
        alignas(64) float re[N + L], im[N + L];
        for (int v = 0; v < N; ++v) re[v] = spectrum.re[0][v][0], im[v] = spectrum.im[0][v][0];
        for (int g = 0; g < COLUMN_GROUPS; ++g) {
            const V a = load<L>(re + g * L), b = load<L>(im + g * L);
            const V c = mirrored(re, g), d = mirrored(im, g);
            store<L>(pair.zero_re + g * L, 0.5f * (a + c));
            store<L>(pair.zero_im + g * L, 0.5f * (b - d));
            store<L>(pair.middle_re + g * L, 0.5f * (b + d));
            store<L>(pair.middle_im + g * L, 0.5f * (c - a));
        }
    }

    // Columns -v for v in group g of a row of period N.
    static DAT_INLINE V mirrored(const float* row, int g) {
        return backwards<L>(load<L>(row + N - (g + 1) * L), load<L>(row + (N - g * L) % N));
    }

    // amplitude(u, v) + amplitude(-u, -v) for rows 0 .. M - 1 in the lanes, and for rows 0 and M by themselves
    struct alignas(64) Symmetric {
        V lanes[ROW_GROUPS][N];
        float zero[N], middle[N];
    };
    static void symmetrise(const float* amplitude, Symmetric& sum) {
        alignas(64) float rows[M * N];
        for (int u = 0; u <= M; ++u) {
            const float *row = amplitude + u * N, *opposite = amplitude + (N - u) % N * N;
            float* to = u < M ? rows + u * N : sum.middle;
            for (int g = 0; g < COLUMN_GROUPS; ++g) store<L>(to + g * L, load<L>(row + g * L) + mirrored(opposite, g));
        }
        for (int v = 0; v < N; ++v) sum.zero[v] = rows[v];
        for (int h = 0; h < ROW_GROUPS; ++h) rows_to_lanes(rows, h, sum.lanes[h]);
    }

    // (re, im) / |(re, im)|, and (1, 0) where both are 0. Scaled by 2^40 first, so that squares of magnitudes down to
    // 1e-30 do not vanish and those of 64 x 64 images do not overflow.
    static DAT_INLINE void normalise(V& re, V& im) {
        const V r = re * 0x1p40f, i = im * 0x1p40f, square = r * r + i * i;
        const V inverse = inverse_root<L>(square);
        re = square == 0.0f ? splat<L>(1.0f) : r * inverse;
        im = square == 0.0f ? splat<L>(0.0f) : i * inverse;
    }

    // Turns the spectrum of an image into its phase factors, all lanes but the first pair's, which go to `pair`.
    static void phase_factors(Spectrum& spectrum, Pair& pair) {
        take_apart(spectrum, pair);
        for (int h = 0; h < ROW_GROUPS; ++h)
            for (int v = 0; v < N; ++v) normalise(spectrum.re[h][v], spectrum.im[h][v]);
        for (int g = 0; g < N; g += L) {
            V re = load<L>(pair.zero_re + g), im = load<L>(pair.zero_im + g);
            normalise(re, im);
            store<L>(pair.zero_re + g, re), store<L>(pair.zero_im + g, im);
            re = load<L>(pair.middle_re + g), im = load<L>(pair.middle_im + g);
            normalise(re, im);
            store<L>(pair.middle_re + g, re), store<L>(pair.middle_im + g, im);
        }
    }

    // factor * amplitude * phase factor, packed again
    static void scale(const Spectrum& phase, const Pair& pair, const Symmetric& sum, float factor, Spectrum& out) {
        for (int h = 0; h < ROW_GROUPS; ++h)
            for (int v = 0; v < N; ++v) {
                const V s = sum.lanes[h][v] * factor;
                out.re[h][v] = phase.re[h][v] * s, out.im[h][v] = phase.im[h][v] * s;
            }
        for (int v = 0; v < N; ++v) {
            const float zero = sum.zero[v] * factor, middle = sum.middle[v] * factor;
            out.re[0][v][0] = pair.zero_re[v] * zero - pair.middle_im[v] * middle;
            out.im[0][v][0] = pair.zero_im[v] * zero + pair.middle_re[v] * middle;
        }
    }

    static DAT_INLINE V clip(V v) {
        v = v > 1.0f ? splat<L>(1.0f) : v;  // comparisons with NaN are false, so NaN stays
        return v < 0.0f ? splat<L>(0.0f) : v;
    }

    static void mix_plane(const float* x, const float* amplitude, float lam, float* out) {
        Spectrum spectrum, product;
        Pair pair;
        Symmetric sum;
        forward(x, spectrum);
        symmetrise(amplitude, sum);
        phase_factors(spectrum, pair);
        scale(spectrum, pair, sum, 0.5f * lam / (N * N), product);
        const float keep = 1.0f - lam;
        backward(product, [&](int y, int column, V generated) __attribute__((always_inline)) {
            store<L>(out + y * N + column, clip(keep * load<L>(x + y * N + column) + generated));
        });
    }

    // `grad` is overwritten with the gradient before the clip.
    static void differentiate_plane(const float* x, const float* amplitude, float lam, float* grad, float* out) {
        Spectrum phase, work;
        Pair pair, grad_pair;
        Symmetric sum;
        forward(x, phase);
        symmetrise(amplitude, sum);
        phase_factors(phase, pair);
        scale(phase, pair, sum, 0.5f * lam / (N * N), work);
        const float keep = 1.0f - lam;
        backward(work, [&](int y, int column, V generated) __attribute__((always_inline)) {
            float* g = grad + y * N + column;
            const V before = keep * load<L>(x + y * N + column) + generated;
            const V kept = before >= 0.0f ? load<L>(g) : splat<L>(0.0f);
            store<L>(g, before <= 1.0f ? kept : splat<L>(0.0f));
        });
        forward(grad, work);
        take_apart(work, grad_pair);
        const float factor = lam / (N * N);
        alignas(64) float rows[M * N];
        for (int h = 0; h < ROW_GROUPS; ++h) {
            V product[N];
            for (int v = 0; v < N; ++v)
                product[v] = factor * (phase.re[h][v] * work.re[h][v] + phase.im[h][v] * work.im[h][v]);
            lanes_to_rows(product, h, rows);
        }
        for (int v = 0; v < N; ++v) {
            out[v] = factor * (pair.zero_re[v] * grad_pair.zero_re[v] + pair.zero_im[v] * grad_pair.zero_im[v]);
            out[M * N + v] =
                factor * (pair.middle_re[v] * grad_pair.middle_re[v] + pair.middle_im[v] * grad_pair.middle_im[v]);
        }
        for (int u = 1; u < M; ++u)
            for (int g = 0; g < COLUMN_GROUPS; ++g) {
                store<L>(out + u * N + g * L, load<L>(rows + u * N + g * L));
                store<L>(out + (N - u) * N + g * L, mirrored(rows + u * N, g));
            }
    }
};

template <int N>
void mix_all(const dat::Mix& a) {
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (std::ptrdiff_t plane = 0; plane < a.shape.batch * a.shape.channels; ++plane) {
        alignas(64) float x_copy[N * N], amplitude_copy[N * N], mixed[N * N], moved[N * N];
        const PlaneIndex at{plane / a.shape.channels, plane % a.shape.channels, a.shape.channels, N * N};
        const View view = view_of(a.views, at.sample);
        const float* x = read_plane(a.images, at, x_copy);
        const float* amplitude = read_plane(a.amplitude, at, amplitude_copy);
        float* direct = direct_plane(a.out, at);
        float* last = direct ? direct : moved;
        float* first = view.moves() ? mixed : last;
        PlaneMix<N>::mix_plane(x, amplitude, a.lam[at.sample], first);
        if (view.moves()) move_plane(mixed, last, N, N, view);
        if (!direct) write_plane(a.out, at, last);
    }
}

template <int N>
void differentiate_all(const dat::Mix& a) {
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (std::ptrdiff_t plane = 0; plane < a.shape.batch * a.shape.channels; ++plane) {
        alignas(64) float x_copy[N * N], amplitude_copy[N * N], grad_copy[N * N], moved[N * N], result[N * N];
        const PlaneIndex at{plane / a.shape.channels, plane % a.shape.channels, a.shape.channels, N * N};
        const View view = view_of(a.views, at.sample).adjoint();
        const float* x = read_plane(a.images, at, x_copy);
        const float* amplitude = read_plane(a.amplitude, at, amplitude_copy);
        const float* grad = read_plane(a.grad, at, grad_copy);
        move_plane(grad, moved, N, N, view);
        float* direct = direct_plane(a.out, at);
        float* out = direct ? direct : result;
        PlaneMix<N>::differentiate_plane(x, amplitude, a.lam[at.sample], moved, out);
        if (!direct) write_plane(a.out, at, out);
    }
}

}  // namespace

void mix(const dat::Mix& a) {
    if (a.shape.width == 16) return mix_all<16>(a);
    if (a.shape.width == 32) return mix_all<32>(a);
    mix_all<64>(a);
}

void mix_backward(const dat::Mix& a) {
    if (a.shape.width == 16) return differentiate_all<16>(a);
    if (a.shape.width == 32) return differentiate_all<32>(a);
    differentiate_all<64>(a);
}

}  // namespace DAT_ISA
