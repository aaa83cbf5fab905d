"""Time of one training step on this machine: the engine's methods beside the literal eager baselines.

What is compared: `dat` and `pgd-at` of this engine (cifar10-resnet18), and `dat.baselines.eager_dat` / `dat.baselines.eager_pgd_at`, which
run the way published code does (55 and 23 forward-equivalents, float32, no frozen view). All contenders take their steps
in one process, in turn; the figure is the median over rounds. Ratios are what may be quoted: times belong to the machine.

    python -m bench.step_time                      # batch 32, the published width, the engine in bf16
    python -m bench.step_time --rounds 9 --json FILE
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dat import models
from dat.baselines.eager_dat import EagerDAT
from dat.baselines.eager_pgd_at import EagerPGDAT
from dat.methods import METHODS, Task
from engine.data import Batch
from engine.optim import SGDSettings
from engine.precision import Precision
from engine.provenance import describe_environment
from engine.step import TrainingStep

IMAGE_SHAPE = (3, 32, 32)


def engine_step(method: str, width: int, precision: Precision, device: torch.device) -> Callable[[Batch], object]:
    task = Task(
        num_classes=10, image_shape=IMAGE_SHAPE, epsilon=8 / 255, mean_amplitude=lambda: torch.ones(IMAGE_SHAPE)
    )
    entry = METHODS[method]
    torch.manual_seed(0)
    model = models.build("resnet18", num_classes=10, width=width, branches=tuple(dict.fromkeys(entry.layout)))
    created = entry.create(entry.settings, task)
    if created.second_player is not None:
        created.second_player.to(device)
    return TrainingStep(model.to(device), created, optimizer=SGDSettings(), precision=precision)


def contenders(width: int, precision: Precision, device: torch.device) -> dict[str, Callable[[Batch], object]]:
    eager_dat = EagerDAT(width=width, num_classes=10, device=device)
    eager_pgd_at = EagerPGDAT(width=width, num_classes=10, device=device)
    return {
        "eager DAT, 55F, fp32": lambda batch: eager_dat.step(batch.images, batch.originals, batch.targets),
        "eager PGD-AT-10, 23F, fp32": lambda batch: eager_pgd_at.step(batch.images, batch.originals, batch.targets),
        f"engine DAT, {precision.name}": engine_step("dat", width, precision, device),
        f"engine PGD-AT-10, {precision.name}": engine_step("pgd-at", width, precision, device),
    }


def random_batch(batch_size: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch_size, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, IMAGE_SHAPE[1:], mode="bilinear").to(device)
    targets = torch.randint(0, 10, (batch_size,), generator=generator).to(device)
    return Batch(images=images, originals=images, targets=targets, indices=torch.arange(batch_size, device=device))


def measure(steps: dict[str, Callable[[Batch], object]], batch: Batch, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender's step, one round after another, after one warm-up step each."""
    for step in steps.values():
        step(batch)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = _now(batch.images.device)
            step(batch)
            seconds[name].append(_now(batch.images.device) - started)
    return seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--no-channels-last", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    precision = Precision(name=arguments.precision, channels_last=not arguments.no_channels_last)
    steps = contenders(arguments.width, precision, device)
    seconds = measure(steps, random_batch(arguments.batch_size, device), arguments.rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    baseline = medians["eager DAT, 55F, fp32"]
    print(f"ResNet-18 of width {arguments.width}, batch {arguments.batch_size}, {device}, {arguments.rounds} rounds")
    print(f"{'':30} {'median s':>9} {'min s':>8} {'eager DAT / this':>17}")
    for name, median in medians.items():
        print(f"{name:30} {median:9.3f} {min(seconds[name]):8.3f} {baseline / median:16.2f}x")
    if arguments.json:
        result = {"seconds": seconds, "medians": medians, "environment": describe_environment(), **vars(arguments)}
        arguments.json.write_text(json.dumps(result, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
