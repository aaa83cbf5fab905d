"""Images per second of every data source beside a plain torchvision DataLoader with two worker processes.

    python -m bench.data_throughput --data-root DIR          # Tiny-ImageNet, its training JPEGs
    python -m bench.data_throughput                          # JPEGs of the same size made here, in a temporary folder
    python -m bench.data_throughput --device cuda --json FILE

The baseline is what a user would write: torchvision's default loader (Pillow), RandomCrop with padding 4, flip,
ToTensor, batches of 128, one view of each image. This engine's loaders give two views, un-augmented and augmented, and
the label and index of every image. All read the same list of files, from the page cache; every subject runs one epoch
per round, all of them in turn, in one process tree, torch itself on one thread, so that the cores are the loaders'.

The figure is the median over rounds of the images per second of a whole epoch, start of worker processes included; CPU
time counts this process and its workers, and other programs on the machine disturb it less. Before anything is timed,
DALI's un-augmented images are held against torchvision's; where they differ by more than rounding there are no figures
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dat_engine.data import (
    Augmentation,
    DaliLoader,
    ImageFiles,
    Loader,
    ResidentLoader,
    TorchvisionLoader,
    dali_installed,
    load,
    open_loader,
)
from dat_engine.run.environment import describe_environment

AUGMENTATION = Augmentation(padding=4, flip=True)
BASELINE = "plain DataLoader, {} workers"
MADE_FILES, MADE_SIZE = 2000, 64

# Runs one epoch, given its number, and returns how many images it saw.
Epoch = Callable[[int], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One epoch of one subject."""

    images_per_second: float
    cpu_microseconds_per_image: float


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """torchvision's ImageFolder over a given list of files."""

    def __init__(self, files: ImageFiles) -> None:
        from torchvision import transforms
        from torchvision.datasets.folder import default_loader

        self._paths = files.paths
        self._targets = files.targets.tolist()
        self._load = default_loader
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(files.image_size, padding=AUGMENTATION.padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._load(self._paths[index])), self._targets[index]


def plain_epochs(files: ImageFiles, batch_size: int, workers: int, device: torch.device) -> Epoch:
    loader = DataLoader(
        PlainDataset(files),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )

    def epoch(number: int) -> int:
        return _count(
            (images.to(device, non_blocking=True), targets.to(device, non_blocking=True)) for images, targets in loader
        )

    return epoch


def engine_epochs(loader: Loader) -> Epoch:
    return lambda number: _count((batch.images, batch.originals) for batch in loader.epoch(number))


def subjects(files: ImageFiles, batch_size: int, workers: int, device: torch.device) -> dict[str, Epoch]:
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "augmentation": AUGMENTATION,
        "seed": 0,
        "device": device,
    }
    found = {
        BASELINE.format(workers): plain_epochs(files, batch_size, workers, device),
        f"torchvision, {workers} workers": engine_epochs(TorchvisionLoader(files, workers=workers, **settings)),
    }
    if dali_installed():
        found[f"DALI, {workers} threads"] = engine_epochs(DaliLoader(files, threads=workers, **settings))
    resident = open_loader("resident", files, **settings)
    if isinstance(resident, ResidentLoader):
        found["resident, decoded once"] = engine_epochs(resident)
    return found


def measure(epochs: dict[str, Epoch], rounds: int, device: torch.device) -> dict[str, list[Timing]]:
    """One epoch of every subject per round, in turn, after one round that is not counted."""
    timings: dict[str, list[Timing]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            cpu, started = _cpu_seconds(), time.perf_counter()
            images = epoch(number)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - started
            if number:
                timings[name].append(
                    Timing(
                        images_per_second=images / seconds,
                        cpu_microseconds_per_image=(_cpu_seconds() - cpu) / images * 1e6,
                    )
                )
    return timings


def pixels_agree(files: ImageFiles, device: torch.device) -> bool:
    """Whether DALI and torchvision give the same images: to the bit on the CPU, half a level of 255 apart on a GPU."""
    settings: dict[str, Any] = {"batch_size": 64, "augmentation": AUGMENTATION, "seed": 1, "device": device}
    dali, torchvision = (next(loader(files, **settings).epoch(0)) for loader in (DaliLoader, TorchvisionLoader))
    if not torch.equal(dali.indices, torchvision.indices) or not torch.equal(dali.targets, torchvision.targets):
        return False
    gap = (dali.originals - torchvision.originals).abs()
    return bool(gap.max() == 0) if device.type == "cpu" else bool(gap.mean() < 0.5 / 255)


def made_files(folder: Path) -> ImageFiles:
    """JPEGs whose spectrum falls like that of photographs (1/f), about as large as Tiny-ImageNet's."""
    rng = np.random.default_rng(0)
    frequency = np.fft.fftfreq(MADE_SIZE) * MADE_SIZE
    distance = np.hypot(frequency[:, None], frequency[None])
    distance[0, 0] = 1
    for number in range(MADE_FILES):
        waves = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, MADE_SIZE, MADE_SIZE))) / distance).real
        pixels = (waves - waves.mean()) / waves.std() * 50 + 128
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy()).save(
            folder / f"{number:05}.jpg", quality=80
        )
    return ImageFiles(
        paths=tuple(str(folder / f"{number:05}.jpg") for number in range(MADE_FILES)),
        targets=torch.arange(MADE_FILES) % 10,
        class_names=tuple("0123456789"),
        image_size=MADE_SIZE,
        resize=MADE_SIZE,
    )


def repeated(files: ImageFiles, at_least: int) -> ImageFiles:
    """The list of files as often as it takes to make an epoch of at least that many images."""
    times = max(1, -(-at_least // len(files)))
    return replace(files, paths=files.paths * times, targets=files.targets.repeat(times))


def report(timings: dict[str, list[Timing]]) -> str:
    """A table of medians, and their ratios to the first subject."""
    lines = [f"{'':28} {'images/s':>10} {'lowest':>9} {'highest':>9} {'ratio':>7} {'CPU µs/image':>13} {'ratio':>7}"]
    medians = {name: _medians(entries) for name, entries in timings.items()}
    base_speed, base_cpu = next(iter(medians.values()))
    for name, (speed, cpu) in medians.items():
        speeds = [timing.images_per_second for timing in timings[name]]
        lines.append(
            f"{name:28} {speed:10.0f} {min(speeds):9.0f} {max(speeds):9.0f} {speed / base_speed:6.2f}x "
            f"{cpu:13.0f} {base_cpu / cpu:6.2f}x"
        )
    return "\n".join(lines)


def _medians(timings: list[Timing]) -> tuple[float, float]:
    return (
        statistics.median(timing.images_per_second for timing in timings),
        statistics.median(timing.cpu_microseconds_per_image for timing in timings),
    )


def _count(views: Iterator[tuple[Tensor, Tensor]]) -> int:
    return sum(len(first) for first, _ in views)


def _cpu_seconds() -> float:
    """Of this process and of the worker processes that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, help="folder that holds tiny-imagenet-200")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2, help="processes of torchvision, threads of DALI")
    parser.add_argument("--images", type=int, default=16_000, help="images per epoch at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data_root is None:
            files = made_files(Path(folder))
        else:
            found = load("tinyimagenet", root=arguments.data_root, split="train", download=False)
            assert isinstance(found, ImageFiles)  # Tiny-ImageNet is a data set of files
            files = found
        if dali_installed() and not pixels_agree(files, device):
            print("DALI's images are not torchvision's: no figures", file=sys.stderr)
            return 1
        files = repeated(files, arguments.images)
        epochs = subjects(files, arguments.batch_size, arguments.workers, device)
        timings = measure(epochs, arguments.rounds, device)
    source = "Tiny-ImageNet" if arguments.data_root else "made here"
    print(
        f"{len(files)} JPEGs ({source}) of {files.image_size} pixels, batch {arguments.batch_size}, {device}, "
        f"{len(os.sched_getaffinity(0))} cores, {arguments.rounds} rounds"
    )
    print(report(timings))
    if arguments.json is not None:
        rows = {
            name: [
                {"images_per_second": t.images_per_second, "cpu_microseconds_per_image": t.cpu_microseconds_per_image}
                for t in entries
            ]
            for name, entries in timings.items()
        }
        result = {"timings": rows, "environment": describe_environment(), "settings": vars(arguments)}
        arguments.json.write_text(json.dumps(result, indent=2, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
