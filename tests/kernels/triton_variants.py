"""Compile ahead of time, without a GPU, every kernel variant that the launchers ask for.

Run by test_triton_ahead_of_time.py. `python -m tests.kernels.triton_variants CAPABILITY PART PARTS` prints a JSON
object per variant: its name, registers per thread, bytes of stack and of local memory, seconds of compilation.
"""

import functools
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dat_kernels.amplitude_mix import triton_backend as amplitude_mix
from dat_kernels.amplitude_mix import triton_kernel as amplitude_mix_kernel
from dat_kernels.amplitude_mix import triton_pointwise
from dat_kernels.augment import triton_backend as augment
from dat_kernels.pgd_step import triton_backend as pgd_step
from dat_kernels.pgd_step import triton_kernel as pgd_step_kernel

ENTRY_POINTS = {
    amplitude_mix_kernel: ("mix_forward", "mix_backward_amplitude"),
    triton_pointwise: ("generated_half_spectrum", "blend", "grad_before_clip", "projections"),
    augment: ("gather_augmented",),
    pgd_step_kernel: ("step_dense", "step_strided", "start_dense", "start_strided"),
}
TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.bool: "i1",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Recorder:
    """Stands in for a kernel and notes the launches instead of making them."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.launches.append((self.kernel, arguments, options))


def recorded_launches(capability):
    """(kernel, arguments, options) of every launch that matters, from the launchers themselves on CPU tensors."""
    launches = []
    for module, names in ENTRY_POINTS.items():
        for name in names:
            setattr(module, name, Recorder(getattr(module, name), launches))
    record_amplitude_mix(capability)
    record_pgd_step()
    record_augment()
    return launches


def record_amplitude_mix(capability):
    amplitude_mix._capability = lambda images: capability // 10
    amplitude_mix._launch_fastest = launch_every_choice
    for size, dtype, channels_last, augmented in itertools.chain(
        itertools.product((16, 32, 64), (torch.float32,), (False,), (False, True)),
        itertools.product((16, 32, 64), (torch.bfloat16, torch.float16), (True,), (True,)),
        [(31, torch.float32, False, False), (31, torch.bfloat16, True, True)],
    ):
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        images = torch.empty(2, 3, size, size, dtype=dtype, memory_format=memory_format)
        views = (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool)) if augmented else (None, None)
        amplitude_mix.forward(images, images, torch.ones(2), *views)
        amplitude_mix.backward_amplitude(images, images, images, torch.ones(2), *views)
    images = torch.empty(2, 3, 32, 32)
    amplitude_mix.forward(images, images, torch.ones(2), torch.zeros(2, 2, dtype=torch.int32), None)
    amplitude_mix.forward(images, images, torch.ones(2), None, torch.zeros(2, dtype=torch.bool))


def launch_every_choice(launch, plan, name, images):
    for num_warps in plan.num_warps:
        launch(num_warps)


def record_pgd_step():
    images = torch.empty(2, 3, 32, 32)
    last = images.to(memory_format=torch.channels_last)
    active = torch.empty(images.shape, dtype=torch.bool)
    for gradient, model_input in ((images, None), (images.bfloat16(), images.bfloat16()), (last.half(), last.half())):
        pgd_step.forward(images, gradient, images, 0.1, 0.1, images, model_input, None)
    scalar = torch.tensor(0.1)
    pgd_step.forward(images, last.bfloat16(), images, scalar, scalar, images, last.bfloat16(), active)
    pgd_step.forward(images, images, images, scalar, scalar, images, images.bfloat16(), active)
    pgd_step.forward(images.half(), images.half(), images.half(), 0.1, 0.1, images.half(), None, None)
    each = torch.full((2,), 0.1)
    pgd_step.forward(images, images, images, each, each, images, images.bfloat16(), active)
    pgd_step.forward(images.half(), images.half(), images.half(), 0.1, each, images.half(), None, None)
    pgd_step.forward(images, last.bfloat16(), images, each, scalar, images, last.bfloat16(), active)
    odd = torch.empty(2, 1, 5, 7)
    pgd_step.forward(odd, odd, odd, each, 0.1, odd, None, None)
    for tensor in (images, last):
        pgd_step.start(tensor, "gaussian", each, each, 3, 2**40, tensor)
    pgd_step.start(images.bfloat16(), "uniform", 0.1, each, 3, 2**40, images.bfloat16())
    counter = torch.tensor(3)
    for noise, tensor in itertools.product(("gaussian", "uniform"), (images, last, images.bfloat16())):
        pgd_step.start(tensor, noise, 0.1, None, 3, 2**40, tensor)
        pgd_step.start(tensor, noise, scalar, scalar, counter, counter, tensor)
    pgd_step._is_wide = lambda count: True
    pgd_step.forward(images, last, images, 0.1, 0.1, images, None, active)
    pgd_step.forward(images, last, images, each, each, images, None, active)
    pgd_step.start(last, "gaussian", 0.1, 0.1, 3, 0, last)


def record_augment():
    dataset = torch.empty(9, 3, 32, 32, dtype=torch.uint8)
    indices, crop, flip = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2).bool()
    for dtype, memory_format in itertools.product(
        (torch.float32, torch.bfloat16, torch.float16, torch.float64), (torch.contiguous_format, torch.channels_last)
    ):
        out = torch.empty(2, 3, 32, 32, dtype=dtype, memory_format=memory_format)
        augment.forward(dataset, indices, crop, flip, out)
    augment.forward(dataset, indices, None, None, out)


def specialised(kernel, arguments, options):
    """The source that Triton would compile for this launch: what a pointer points to, which numbers are 1 or 16 n."""
    signature, constants, attributes = {}, {}, {}
    values = dict(zip(kernel.arg_names, arguments, strict=False))
    values |= {name: value for name, value in options.items() if name in kernel.arg_names}
    for index, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(index,)] = f"*{TYPES[value.dtype]}", [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def describe(source, options):
    constants = {source.fn.arg_names[path[0]]: value for path, value in source.constants.items()}
    shown = {name: value for name, value in constants.items() if name.isupper()}
    pointers = [kind for kind in source.signature.values() if kind.startswith("*")]
    last = "channels_last" if constants.get("images_stride_c") == 1 or constants.get("out_stride_c") == 1 else ""
    return f"{source.fn.__name__} {shown} {' '.join(pointers)} {last} warps={options.get('num_warps', 4)}"


@functools.cache
def cubin_resources(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        dump = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    return {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", dump.stdout)}


def main(capability, part, parts):
    variants = {}
    for kernel, arguments, options in recorded_launches(capability):
        source = specialised(kernel, arguments, options)
        settings = {name: value for name, value in options.items() if name not in kernel.arg_names}
        variants[source.hash() + str(settings)] = (source, settings)
    for source, settings in list(variants.values())[part::parts]:
        start = time.perf_counter()
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)
        seconds = time.perf_counter() - start
        resources = cubin_resources(compiled.asm["cubin"])
        print(json.dumps({"name": describe(source, settings), "seconds": round(seconds, 1), **resources}), flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
