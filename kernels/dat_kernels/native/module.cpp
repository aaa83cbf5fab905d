// The Python module dat_kernels._native: hands raw memory to the kernels of the best instruction set this processor has.
//
// Arguments are addresses and plain numbers: the callers, native_backend.py of each operation, hold the tensors and
// have checked them, and torch.Tensor's own DLPack export costs more than a small kernel. The interpreter lock is
// released while a kernel runs.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "arguments.h"

DAT_DECLARE_KERNELS(baseline)
#ifdef DAT_X86_VARIANTS
DAT_DECLARE_KERNELS(avx2)
DAT_DECLARE_KERNELS(avx512)
#endif

namespace nb = nanobind;

namespace {

struct InstructionSet {
    const char* name;
    const dat::Kernels* kernels;
    bool usable;
};

// Best first.
const InstructionSet* instruction_sets(int& count) {
#ifdef DAT_X86_VARIANTS
    static const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    static const InstructionSet sets[] = {
        {"avx512", &avx512::KERNELS,
         fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
        {"avx2", &avx2::KERNELS, fma},
        {"baseline", &baseline::KERNELS, true},
    };
#else
    static const InstructionSet sets[] = {{"baseline", &baseline::KERNELS, true}};
#endif
    count = int(sizeof sets / sizeof sets[0]);
    return sets;
}

const InstructionSet* best() {
    int count;
    const InstructionSet* sets = instruction_sets(count);
    while (!sets->usable) ++sets;
    return sets;
}

const InstructionSet* current = best();

nb::list usable_instruction_sets() {
    int count;
    const InstructionSet* sets = instruction_sets(count);
    nb::list names;
    for (int i = 0; i < count; ++i)
        if (sets[i].usable) names.append(sets[i].name);
    return names;
}

void use_instruction_set(const std::string& name) {
    int count;
    const InstructionSet* sets = instruction_sets(count);
    for (int i = 0; i < count; ++i)
        if (name == sets[i].name && sets[i].usable) {
            current = &sets[i];
            return;
        }
    throw std::invalid_argument("instruction set '" + name + "' is unknown or not supported by this processor");
}

using Address = std::uintptr_t;

// (address, dtype code, interleaved); address 0 for an absent tensor
dat::Images images(const nb::tuple& t) {
    return {reinterpret_cast<void*>(nb::cast<Address>(t[0])), static_cast<dat::Dtype>(nb::cast<int>(t[1])),
            nb::cast<bool>(t[2])};
}

dat::Shape shape(const nb::tuple& t) {
    return {nb::cast<std::ptrdiff_t>(t[0]), nb::cast<std::ptrdiff_t>(t[1]), nb::cast<std::ptrdiff_t>(t[2]),
            nb::cast<std::ptrdiff_t>(t[3])};
}

dat::Views views(Address offsets, Address flip) {
    return {reinterpret_cast<const std::int64_t*>(offsets), reinterpret_cast<const bool*>(flip)};
}

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

// (value, address of one value per sample); address 0 where the value counts for all
dat::Setting setting(const nb::tuple& t) {
    return {nb::cast<float>(t[0]), reinterpret_cast<const float*>(nb::cast<Address>(t[1]))};
}

template <class Arguments>
void run(void (*kernel)(const Arguments&), const Arguments& arguments) {
    nb::gil_scoped_release unlocked;
    kernel(arguments);
}

template <auto Kernel>
void mix(const nb::tuple& x, const nb::tuple& amplitude, const nb::tuple& grad, const nb::tuple& out, Address lam,
         Address generated, Address spectrum, Address grad_spectrum, Address offsets, Address flip,
         const nb::tuple& sizes, int threads) {
    run(current->kernels->*Kernel,
        dat::Mix{images(x), images(amplitude), images(grad), images(out), pointer<const float>(lam),
                 pointer<const float>(generated), pointer<float>(spectrum), pointer<const float>(grad_spectrum),
                 views(offsets, flip), shape(sizes), threads});
}

void pgd_step(const nb::tuple& adversarial, const nb::tuple& gradient, const nb::tuple& x, const nb::tuple& out,
              const nb::tuple& model_input, const nb::tuple& active, const nb::tuple& step_size,
              const nb::tuple& epsilon, const nb::tuple& sizes, int threads) {
    const dat::Images mask = images(active);
    run(current->kernels->pgd_step,
        dat::Step{images(adversarial), images(gradient), images(x), images(out), images(model_input),
                  static_cast<bool*>(mask.data), mask.interleaved, setting(step_size), setting(epsilon), shape(sizes),
                  threads});
}

void pgd_start(const nb::tuple& x, const nb::tuple& out, bool gaussian, const nb::tuple& scale,
               const nb::tuple& epsilon, std::int64_t seed, std::int64_t offset, const nb::tuple& sizes, int threads) {
    run(current->kernels->pgd_start,
        dat::Start{images(x), images(out), gaussian, setting(scale), setting(epsilon),
                   static_cast<std::uint64_t>(seed), static_cast<std::uint64_t>(offset), shape(sizes), threads});
}

void augment(Address dataset, bool interleaved, Address indices, const nb::tuple& out, Address offsets, Address flip,
             const nb::tuple& sizes, int threads) {
    run(current->kernels->augment,
        dat::Augment{pointer<const std::uint8_t>(dataset), interleaved, pointer<const std::int64_t>(indices),
                     images(out), views(offsets, flip), shape(sizes), threads});
}

}  // namespace

NB_MODULE(_native, m) {
    m.def("instruction_sets", usable_instruction_sets, "Names of those this processor has, best first.");
    m.def("use_instruction_set", use_instruction_set, "Run another one's kernels from now on (tests).");
    m.def("current_instruction_set", [] { return current->name; });
    m.def("mix", mix<&dat::Kernels::mix>);
    m.def("mix_backward", mix<&dat::Kernels::mix_backward>);
    m.def("mix_spectrum", mix<&dat::Kernels::mix_spectrum>);
    m.def("mix_blend", mix<&dat::Kernels::mix_blend>);
    m.def("mix_mask", mix<&dat::Kernels::mix_mask>);
    m.def("mix_grad_spectrum", mix<&dat::Kernels::mix_grad_spectrum>);
    m.def("pgd_step", pgd_step);
    m.def("pgd_start", pgd_start);
    m.def("augment", augment);
}
