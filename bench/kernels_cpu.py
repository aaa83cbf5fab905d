"""CPU kernels against eager PyTorch, as ratios of times in one process. Prints Markdown.

    python -m bench.kernels_cpu [--batch 128] [--repeats 15]

Every row is one task at batch x 3 x N x N. The contenders take turns; each turn calls one of them several times after
one call that is not counted, so that no one pays for the memory another has just returned; the median turn counts.
Ratios are against the row's first formulation. A kernel with a wrong result gets no ratio and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kernels import amplitude_mix, augment, available_backends, pgd_start, pgd_step

Task = Callable[[], Tensor]
EPSILON, STEP = 8 / 255, 2 / 255


def mix_with_angles(images: Tensor, amplitude: Tensor, lam: Tensor) -> Tensor:
    """The mix as published code computes it: complex128, angle and exponential."""
    spectrum, weight = torch.fft.fft2(images.double()), lam.double()[:, None, None, None]
    mixed = weight * amplitude.double() + (1 - weight) * spectrum.abs()
    return torch.fft.ifft2(mixed * torch.exp(1j * spectrum.angle())).real.clamp(0, 1).float()


def mix_with_half_spectrum(images: Tensor, amplitude: Tensor, lam: Tensor) -> Tensor:
    """What a careful user would write in eager PyTorch: float32, half a spectrum, no angle."""
    weight, half = lam[:, None, None, None], images.shape[-1] // 2 + 1
    spectrum = torch.fft.rfft2(images)
    opposite = amplitude.flip(-2, -1).roll((1, 1), (-2, -1))
    symmetric = (amplitude[..., :half] + opposite[..., :half]) * (0.5 * weight)
    phase = spectrum / spectrum.abs().clamp_min_(1e-30)
    return torch.fft.irfft2(phase * symmetric, s=images.shape[-2:]).add_((1 - weight) * images).clamp_(0, 1)


def mix_tasks(batch: int, size: int) -> dict[str, Task]:
    images, amplitude, lam = torch.rand(batch, 3, size, size), torch.rand(batch, 3, size, size), torch.rand(batch)
    last = images.to(memory_format=torch.channels_last)
    return {
        "eager, complex128": lambda: mix_with_angles(images, amplitude, lam),
        "eager, rfft2": lambda: mix_with_half_spectrum(images, amplitude, lam),
        "native": lambda: amplitude_mix(images, amplitude, lam, backend="native"),
        "native, channels_last": lambda: amplitude_mix(last, amplitude, lam, backend="native"),
    }


def mix_gradient_tasks(batch: int, size: int) -> dict[str, Task]:
    images, lam = torch.rand(batch, 3, size, size), torch.rand(batch)
    amplitude = torch.rand(batch, 3, size, size, requires_grad=True)
    grad = torch.randn(images.shape)

    def differentiate(mix: Callable[..., Tensor]) -> Task:
        return lambda: torch.autograd.grad(mix(images, amplitude, lam), amplitude, grad)[0]

    return {
        "eager, complex128": differentiate(mix_with_angles),
        "eager, rfft2": differentiate(mix_with_half_spectrum),
        "native": differentiate(lambda *tensors: amplitude_mix(*tensors, backend="native")),
    }


def step_tasks(batch: int, size: int) -> dict[str, Task]:
    images = torch.rand(batch, 3, size, size)
    adversarial = (images + 0.02 * torch.randn_like(images)).clamp(0, 1)
    gradient, out = torch.randn_like(images), torch.empty_like(images)

    def eager() -> Tensor:
        stepped = adversarial + STEP * gradient.sign()
        return torch.clamp(torch.min(torch.max(stepped, images - EPSILON), images + EPSILON), 0, 1)

    return {
        "eager": eager,
        "native": lambda: pgd_step(
            adversarial, gradient, images, step_size=STEP, epsilon=EPSILON, out=out, backend="native"
        ),
    }


def start_tasks(batch: int, size: int) -> dict[str, Task]:
    images = torch.rand(batch, 3, size, size)
    return {
        "eager, randn": lambda: (images + 0.001 * torch.randn_like(images)).clamp(0, 1),
        "native": lambda: pgd_start(images, noise="gaussian", scale=0.001, seed=1, backend="native"),
    }


def augment_tasks(batch: int, size: int) -> dict[str, Task]:
    dataset = torch.randint(0, 256, (1000, 3, size, size), dtype=torch.uint8)
    indices, offsets, flip = torch.randint(0, 1000, (batch,)), torch.randint(-4, 5, (batch, 2)), torch.rand(batch) < 0.5

    def eager() -> Tensor:
        """A crop and a flip per image, as torchvision's transforms do it."""
        padded = torch.nn.functional.pad(dataset[indices].float().div(255), (4, 4, 4, 4))
        crops = []
        for image, (dy, dx), flipped in zip(padded, (offsets + 4).tolist(), flip.tolist(), strict=True):
            crop = image[:, dy : dy + size, dx : dx + size]
            crops.append(crop.flip(-1) if flipped else crop)
        return torch.stack(crops)

    return {
        "eager": eager,
        "native": lambda: augment(dataset, indices, crop_offsets=offsets, flip=flip, backend="native"),
    }


def milliseconds(tasks: dict[str, Task], repeats: int, calls: int) -> dict[str, float]:
    """Median over the turns of a call's time."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            task()
            begin = time.perf_counter()
            for _ in range(calls):
                task()
            times[name].append((time.perf_counter() - begin) / calls * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def report(title: str, tasks: dict[str, Task], tolerance: float, repeats: int, calls: int) -> bool:
    """Print one table row; False where a contender's result differs from the first one's by more than `tolerance`."""
    results = {name: task().clone() for name, task in tasks.items()}
    first = next(iter(results.values()))
    wrong = {
        name for name, result in results.items() if not torch.quantile((result - first).abs()[:8], 0.99) <= tolerance
    }
    times = milliseconds(tasks, repeats, calls)
    slowest = next(iter(times.values()))
    cells = [f"{name}: " + ("WRONG" if name in wrong else f"{slowest / value:.1f}x") for name, value in times.items()]
    print(f"| {title} | {slowest:.2f} | {', '.join(cells[1:])} |", flush=True)
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--calls", type=int, default=8)
    arguments = parser.parse_args()
    if "native" not in available_backends():
        sys.exit("kernels._native was not built, so there is nothing to measure; install with a C++20 compiler present")
    from kernels import _native

    torch.manual_seed(0)
    batch = arguments.batch
    instructions, threads = _native.current_instruction_set(), torch.get_num_threads()
    print(f"{threads} threads, {instructions}, torch {torch.__version__}, batch {batch}\n")
    print("| task | first formulation, ms | against it |\n|---|---|---|")
    rows = {f"amplitude_mix, {size} px": (mix_tasks(batch, size), 1e-4) for size in (16, 32, 64)}
    rows["amplitude_mix, 33 px"] = (mix_tasks(batch, 33), 1e-4)
    rows["amplitude_mix with gradient, 32 px"] = (mix_gradient_tasks(batch, 32), 1e-4)
    rows["pgd_step, 32 px"] = (step_tasks(batch, 32), 0.0)
    rows["pgd_start, gaussian, 32 px"] = (start_tasks(batch, 32), 0.01)
    rows["augment, 32 px"] = (augment_tasks(batch, 32), 0.0)
    correct = [
        report(title, tasks, tolerance, arguments.repeats, arguments.calls)
        for title, (tasks, tolerance) in rows.items()
    ]
    sys.exit(0 if all(correct) else 1)


if __name__ == "__main__":
    main()
