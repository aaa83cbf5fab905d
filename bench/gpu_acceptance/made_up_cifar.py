"""`dat` on images that are made up: the command line as it is, with CIFAR-10's place in the registry taken.

python -m bench.gpu_acceptance.made_up_cifar train cifar10-resnet18 --run-dir run --max-steps 8
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

from bench.gpu_acceptance.inputs import make_images
from dat_engine.data import SOURCES, DatasetDescription, FileSettings, ImageArrays
from dat_engine.data.datasets.cifar import CIFAR10
from dat_engine.data.datasets.registry import Source

SIZES = {"train": 50_000, "test": 10_000}
CHUNK = 5_000
NEEDED = ("tyro", "safetensors", "filelock", "tensorboard")
"""What `dat train` imports besides what the rest of this run needs."""


def missing_for_training() -> str | None:
    """Which of the packages that `dat train` needs are not here; None where all are."""
    missing = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    return f"dat train needs {', '.join(missing)}, which is not installed" if missing else None


def take_cifars_place(sizes: dict[str, int] | None = None) -> None:
    """Until the process ends, the data set cifar10 is images out of `make_images`, with labels drawn at random."""
    counts = sizes or SIZES

    def describe(root: Path | None, files: FileSettings) -> DatasetDescription:
        return CIFAR10

    def read(root: Path | None, split: str, download: bool, files: FileSettings) -> ImageArrays:
        return made_up_split(split, counts[split])

    SOURCES["cifar10"] = Source(describe=describe, read=read, reads_files=False)


def made_up_split(split: str, count: int) -> ImageArrays:
    """uint8 [count, 3, 32, 32] on the CPU, other images for every split."""
    first = 1000 if split == "test" else 0
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    chunks = [
        make_images("one_over_f", (min(CHUNK, count - start), 3, 32, 32), seed=first + start // CHUNK, device=device)
        for start in range(0, count, CHUNK)
    ]
    images = torch.cat([chunk.mul(255).round().to(torch.uint8).cpu() for chunk in chunks])
    targets = torch.randint(0, 10, (count,), generator=torch.Generator().manual_seed(first))
    return ImageArrays(images=images, targets=targets, class_names=CIFAR10.class_names)


def main() -> int:
    small = "--limit-train" in sys.argv
    take_cifars_place({"train": 2_000, "test": 200} if small else None)
    from dat.cli import main as dat

    return dat(sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
