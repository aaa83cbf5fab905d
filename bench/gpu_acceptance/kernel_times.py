"""The kernels against what this GPU can copy. A figure counts only where the kernel's own gates have passed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bench.gpu_acceptance import targets
from bench.gpu_acceptance.ceilings import COPY_BANDWIDTH
from bench.gpu_acceptance.device_timing import Task, seconds_in_graph, seconds_of
from bench.gpu_acceptance.gate_plugin import gate_of_file
from bench.gpu_acceptance.inputs import make_images
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting
from dat_kernels import amplitude_mix, augment, pgd_start, pgd_step

EPSILON, STEP_SIZE = 8 / 255, 2 / 255
SETS = 8
"""Input sets that the calls of a graph take in turn."""


def run(setting: Setting, record: Recorder, *words: str) -> None:
    """The sizes of CIFAR-10's training, or with a word those of other data sets."""
    for part in (_mix_of_other_sizes,) if words else (_mix, _pgd_step, _augment):
        with record.gate(f"kernel times: {part.__name__.strip('_')} could be timed"):
            part(setting, record)


def _mix(setting: Setting, record: Recorder) -> None:
    # the float32 kernel is what is timed: a red half-precision gate withholds nothing here
    needs = (
        "amplitude_mix 32x32: float32",
        "amplitude_mix 32x32: every launch variant gives the same bits",
    )
    side = setting.pick(32, 16)
    small = [_mix_arguments(setting.pick(128, 1), side, setting, seed) for seed in range(setting.pick(SETS, 1))]
    seconds = seconds_in_graph([_forward(*inputs) for inputs in small], setting)
    note = "float32, per call of 64 in a graph, 8 input sets in turn"
    record.figure(targets.MIX_SMALL, 1e6 * seconds, "µs", needs=needs, note=note)
    augmented = seconds_in_graph([_forward(*inputs, augmented=True) for inputs in small], setting)
    record.figure(
        "amplitude_mix forward with crop and flip, 128x3x32x32", 1e6 * augmented, "µs", needs=needs, note=note
    )
    backward = seconds_in_graph([_backward(*inputs) for inputs in small], setting)
    record.figure("amplitude_mix backward, 128x3x32x32", 1e6 * backward, "µs", needs=needs, note=note)
    large = _mix_arguments(setting.pick(8192, 1), side, setting, 0)
    for name, task, tensors in (
        (targets.MIX_LARGE, _forward(*large), 3),  # images and amplitude read, result written
        (
            "amplitude_mix backward, 8192x3x32x32, share of copy bandwidth",
            _backward(*large),
            4,
        ),  # and the gradient read
    ):
        _share(name, task, tensors * large[0].nbytes, setting, record, needs)


def _mix_of_other_sizes(setting: Setting, record: Recorder) -> None:
    for size in setting.pick((16, 64), (16,)):
        inputs = _mix_arguments(setting.pick(8192 * 32 * 32 // size**2, 1), size, setting, 0)
        name = f"amplitude_mix forward, {inputs[0].shape[0]}x3x{size}x{size}, share of copy bandwidth"
        _share(name, _forward(*inputs), 3 * inputs[0].nbytes, setting, record, (f"amplitude_mix {size}x{size}",))


def _pgd_step(setting: Setting, record: Recorder) -> None:
    side = setting.pick(32, 4)
    batch = setting.pick(87_381, 2)  # 1 GiB of float32
    images = _random((batch, 3, side, side), setting, 0)
    adversarial, gradient = (images + 0.01).clamp_(0, 1), _random(tuple(images.shape), setting, 1) - 0.5
    out = torch.empty_like(images)
    scalars: dict[str, Any] = {"step_size": STEP_SIZE, "epsilon": EPSILON}
    needs = (gate_of_file("kernels/test_pgd_step.py"),)

    def plain() -> Tensor:
        return pgd_step(adversarial, gradient, images, **scalars, out=out)

    _share(targets.PGD_STEP, plain, 4 * images.nbytes, setting, record, needs)
    low = gradient.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)

    def as_in_training() -> Tensor:
        return pgd_step(adversarial, low, images, **scalars, out=adversarial)

    name = "pgd_step, 1 GiB, in place with a bf16 channels_last gradient, share of copy bandwidth"
    _share(name, as_in_training, 3 * images.nbytes + low.nbytes, setting, record, needs)
    name = "pgd_start, 1 GiB, gaussian, share of copy bandwidth"
    _share(
        name,
        lambda: pgd_start(images, noise="gaussian", scale=0.001, seed=1),
        2 * images.nbytes,
        setting,
        record,
        (gate_of_file("kernels/test_pgd_start.py"),),
    )
    part = images[: setting.pick(256, 2)].clone()
    small, grown = part.clone(), part.flip(3)
    seconds = seconds_in_graph([lambda: pgd_step(small, grown, part, **scalars, out=small)], setting)
    record.figure("pgd_step, 256x3x32x32, in a graph", 1e6 * seconds, "µs", needs=needs)


def _augment(setting: Setting, record: Recorder) -> None:
    side, count = setting.pick(32, 4), setting.pick(50_000, 16)
    needs = (gate_of_file("kernels/test_augment.py"),)
    dataset = make_images("random", (count, 3, side, side), device=setting.device).mul(255).to(torch.uint8)
    for batch in setting.pick((128, 8192), (4,)):
        generator = torch.Generator().manual_seed(0)
        indices = torch.randint(0, count, (batch,), generator=generator).to(setting.device)
        offsets = torch.randint(-4, 5, (batch, 2), generator=generator, dtype=torch.int32).to(setting.device)
        flip = (torch.rand(batch, generator=generator) < 0.5).to(setting.device)

        def call(indices: Tensor = indices, offsets: Tensor = offsets, flip: Tensor = flip) -> Tensor:
            return augment(dataset, indices, crop_offsets=offsets, flip=flip)

        moved = 5 * batch * math.prod(dataset.shape[1:])  # one byte read, four written
        name = f"augment, {batch}x3x32x32"
        if batch == 128:
            seconds = seconds_in_graph([call], setting)
            record.figure(f"{name}, in a graph", 1e6 * seconds, "µs", needs=needs)
        else:
            _share(f"{name}, share of copy bandwidth", call, moved, setting, record, needs)


def _share(name: str, task: Task, bytes_moved: int, setting: Setting, record: Recorder, needs: tuple[str, ...]) -> None:
    """Bytes that must be moved over the time taken, against the copy measured in this run."""
    bandwidth = bytes_moved / seconds_of(task, setting) / 1e9
    ceiling = setting.earlier(COPY_BANDWIDTH)
    if ceiling is None:
        raise RuntimeError("the copy bandwidth of this GPU was not measured; run the section ceilings too")
    note = f"{bandwidth:.0f} GB/s of {ceiling:.0f}"
    record.figure(name, 100 * bandwidth / ceiling, "%", needs=(*needs, "ceilings"), note=note)


def _random(shape: tuple[int, ...], setting: Setting, seed: int) -> Tensor:
    return make_images("random", shape, seed=seed, device=setting.device)


def _mix_arguments(batch: int, side: int, setting: Setting, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (batch, 3, side, side)
    images = make_images("one_over_f", shape, seed=seed, device=setting.device)
    lam = _random((batch, 1, 1, 1), setting, seed + 1).flatten()
    return images, _random(shape, setting, seed + 2), lam


def _forward(images: Tensor, amplitude: Tensor, lam: Tensor, augmented: bool = False) -> Task:
    batch = images.shape[0]
    offsets = torch.randint(-3, 4, (batch, 2), device=images.device, dtype=torch.int32) if augmented else None
    flip = torch.rand(batch, device=images.device) < 0.5 if augmented else None
    return lambda: amplitude_mix(images, amplitude, lam, crop_offsets=offsets, flip=flip)


def _backward(images: Tensor, amplitude: Tensor, lam: Tensor) -> Task:
    """The gradient's kernel alone, through the operator that autograd calls."""
    grad = torch.randn_like(images)
    operator = torch.ops.dat_kernels.amplitude_mix_backward_amplitude
    return lambda: operator(grad, images, amplitude, lam, None, None, None)
