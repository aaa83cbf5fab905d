// Gather, crop, flip and conversion of 8-bit images on one instruction set.
#include "../native/planes.h"

namespace DAT_ISA {

void augment(const dat::Augment& a) {
    const std::ptrdiff_t pixels = a.shape.height * a.shape.width;
#pragma omp parallel num_threads(a.threads)
    {
        float* scratch = new float[pixels];
        std::uint8_t* bytes = new std::uint8_t[2 * pixels];
#pragma omp for schedule(static)
        for (std::ptrdiff_t plane = 0; plane < a.shape.batch * a.shape.channels; ++plane) {
            const PlaneIndex at{plane / a.shape.channels, plane % a.shape.channels, a.shape.channels, pixels};
            const PlaneIndex source{a.indices[at.sample], at.channel, at.channels, pixels};
            const std::uint8_t* from = a.dataset + source.start(a.dataset_interleaved);
            if (a.dataset_interleaved && at.channels > 1) {
                with_stride(at.channels, [&](auto step) {
                    for (std::ptrdiff_t i = 0; i < pixels; ++i) bytes[i] = from[i * step];
                });
                from = bytes;
            }
            const View view = view_of(a.views, at.sample);
            if (view.moves()) {
                move_plane(from, bytes + pixels, a.shape.height, a.shape.width, view);
                from = bytes + pixels;
            }
            float* direct = direct_plane(a.out, at);
            float* to = direct ? direct : scratch;
            // a division, not a product with 1/255: the result is that of eager's .div(255) to the bit
            for (std::ptrdiff_t i = 0; i < pixels; ++i) to[i] = float(from[i]) / 255.0f;
            if (!direct) write_plane(a.out, at, to);
        }
        delete[] bytes;
        delete[] scratch;
    }
}

}  // namespace DAT_ISA
