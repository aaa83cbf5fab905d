"""CPU time per batch of every augmentation: on whole batches (the resident loader) and image by image (torchvision's way).

    python -m bench.augmentation_time
    python -m bench.augmentation_time --batch-size 128 --image-size 64 --json FILE

Both loaders give the same two views, labels and indices of random 8-bit images in memory, in this process, on one thread; what
CIFAR-10's recipe would do to them is done. The figure is the median over rounds of the thread's CPU milliseconds per batch of a
whole epoch, the epoch's draws included; loaders and augmentations take turns, after one round that is not counted. Before all
this, augmentations that both ways draw alike are held against each other on the same draws: where they differ there are no
figures and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.freed_memory import keep_freed_memory
from dat_engine.data import (
    AUGMENTATIONS,
    Augmentation,
    ImageArrays,
    Loader,
    named_augmentation,
    open_loader,
    unit_range,
)
from dat_engine.data.augmentations.interface import ImageAugmentation
from dat_engine.run.environment import describe_environment

CROP = Augmentation(padding=4, flip=True)
BATCHES = 4


def loaders(images: int, size: int) -> dict[tuple[str, str], Loader]:
    """By augmentation and kind."""
    generator = torch.Generator().manual_seed(0)
    arrays = ImageArrays(
        images=torch.randint(0, 256, (BATCHES * images, 3, size, size), generator=generator, dtype=torch.uint8),
        targets=torch.arange(BATCHES * images) % 10,
        class_names=tuple("0123456789"),
    )
    found: dict[tuple[str, str], Loader] = {}
    for name in AUGMENTATIONS:
        augmentation = named_augmentation(name, CROP, data_set="cifar10", image_shape=arrays.image_shape)
        settings: dict[str, Any] = {"batch_size": images, "augmentation": augmentation, "seed": 0, "device": "cpu"}
        found[name, "resident"] = open_loader("resident", arrays, **settings)
        found[name, "torchvision"] = open_loader("torchvision", arrays, workers=0, **settings)
    return found


def agree(size: int) -> bool:
    """Whether image by image and batch by batch the same draws give the same images."""
    image = torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.random.fork_rng():
        for name, seed in ((name, seed) for name in ("cutout", "idbh") for seed in range(20)):
            then = named_augmentation(name, CROP, data_set="cifar10", image_shape=(3, size, size)).then
            assert isinstance(then, ImageAugmentation)
            torch.manual_seed(seed)
            alone = unit_range(then.apply_to_sample(image))
            torch.manual_seed(seed)
            draws = then.draw(1, (3, size, size), torch.default_generator, image.device)
            if not torch.equal(alone, then.apply(unit_range(image[None]), draws)[0]):
                return False
    return True


def measure(subjects: dict[tuple[str, str], Loader], rounds: int) -> dict[tuple[str, str], list[float]]:
    """CPU milliseconds per batch, one epoch of every subject per round."""
    timings: dict[tuple[str, str], list[float]] = {key: [] for key in subjects}
    for number in range(rounds + 1):
        for key, loader in subjects.items():
            started = time.thread_time()
            batches = sum(1 for _ in loader.epoch(number))
            if number:
                timings[key].append(1e3 * (time.thread_time() - started) / batches)
    return timings


def report(timings: dict[tuple[str, str], list[float]]) -> str:
    """A table of medians."""
    median = {key: statistics.median(values) for key, values in timings.items()}
    lines = [f"{'':12} {'on batches':>11} {'- standard':>11} {'by image':>9} {'ratio':>7}   ms of CPU time per batch"]
    for name in AUGMENTATIONS:
        batch, sample = median[name, "resident"], median[name, "torchvision"]
        over = batch - median["standard", "resident"]
        lines.append(f"{name:12} {batch:11.2f} {over:11.2f} {sample:9.1f} {sample / batch:6.1f}x")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if not agree(arguments.image_size):
        print("whole batches and single images are not augmented alike: no figures", file=sys.stderr)
        return 1
    timings = measure(loaders(arguments.batch_size, arguments.image_size), arguments.rounds)
    print(
        f"{arguments.batch_size}x3x{arguments.image_size}x{arguments.image_size}, one thread, {arguments.rounds} rounds"
    )
    print(report(timings))
    if arguments.json is not None:
        rows = {name: {kind: timings[name, kind] for kind in ("resident", "torchvision")} for name in AUGMENTATIONS}
        result = {"milliseconds": rows, "environment": describe_environment(), "settings": vars(arguments)}
        arguments.json.write_text(json.dumps(result, indent=2, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
