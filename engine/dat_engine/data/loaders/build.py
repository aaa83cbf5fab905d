"""Which loader serves a split: the one asked for, or the fastest one that the device has room for."""

import math
import warnings
from pathlib import Path
from typing import Any

import torch

from dat_engine.data.arrays import ImageArrays
from dat_engine.data.augmentations.crop import Augmentation, RandomResizedCrop
from dat_engine.data.batch import Loader
from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.decoding import decode_all, usable_cores
from dat_engine.data.files.files import ImageFiles, ImageSource
from dat_engine.data.loaders.dali import DaliLoader
from dat_engine.data.loaders.dali_pipeline import dali_installed
from dat_engine.data.loaders.resident import ResidentLoader
from dat_engine.data.loaders.torchvision import TorchvisionLoader
from dat_engine.data_kinds import LoaderKind
from dat_engine.errors import UserError

__all__ = ["LoaderKind", "free_bytes", "open_loader", "resident_bytes"]

# The rest is for weights, activations and the attack.
_RESIDENT_SHARE = 0.5
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def open_loader(
    kind: LoaderKind,
    source: ImageSource,
    *,
    batch_size: int,
    augmentation: Augmentation | RandomResizedCrop,
    seed: int,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
    workers: int | None = None,
    extra_views: int = 0,
    extra_augmentation: Augmentation | RandomResizedCrop | None = None,
) -> Loader:
    """A training loader for `source` on `device`.

    kind: "resident", "dali" or "torchvision"; "auto" is "resident" where that is possible. A resident loader of image
    files decodes all of them once. A data set that would take more than half of the device's free memory is not made
    resident, nor one whose augmentation needs the files themselves: a warning says so (except that "auto" is silent
    about the latter), and DALI serves it, or torchvision where DALI is not installed.

    workers: threads of DALI or processes of torchvision, None for the cores that this process may use (torchvision:
    none for images in memory); extra_views: augmented views beside the first; extra_augmentation: what is done to those, None:
    the same. The rest: as for a `ResidentLoader`.

    Raises UserError for an unknown kind, for "dali" where that is not installed, and as the loaders do; DataError for
    files that cannot be read, and for damaged ones where those are fatal.
    """
    if kind not in ("auto", "resident", "dali", "torchvision"):
        raise UserError(f"unknown loader {kind!r}; use auto, resident, dali or torchvision")
    if extra_views < 0:
        raise UserError(f"extra_views is {extra_views}; use 0 or a positive number of augmented views")
    device = torch.device(device)
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "augmentation": augmentation,
        "seed": seed,
        "device": device,
        "rank": rank,
        "world_size": world_size,
        "extra_views": extra_views,
        "extra_augmentation": extra_augmentation,
    }
    if kind in ("auto", "resident"):
        obstacle = _obstacle(source, augmentation, device)
        if obstacle is None:
            return _resident(source, settings)
        chosen: LoaderKind = "dali" if dali_installed() else "torchvision"
        if kind == "resident" or isinstance(augmentation, Augmentation):
            name = "DALI" if chosen == "dali" else "torchvision (NVIDIA DALI is not installed)"
            warnings.warn(f"{obstacle}; the data set is not made resident but served by {name}", stacklevel=2)
        kind = chosen
    if kind == "dali":
        return DaliLoader(source, threads=workers, **settings)
    if workers is None:
        workers = usable_cores() if isinstance(source, ImageFiles) else 0
    return TorchvisionLoader(source, workers=workers, **settings)


def resident_bytes(source: ImageSource) -> int:
    """Device memory that a ResidentLoader of this split holds: one byte per value, eight per label."""
    channels, height, width = source.image_shape
    return len(source) * (channels * height * width + 8)


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a device: a GPU's own, or what the system (or this container) can still give."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    lines = Path("/proc/meminfo").read_text().splitlines()
    (available,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(available, _left_to_container())


def _left_to_container() -> float:
    """Bytes until the memory limit of this process's control group (version 2), cached files not counted as used."""
    limit, used, details = (_CONTROL_GROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not limit.is_file() or limit.read_text().strip() == "max":
        return math.inf
    cached = dict(line.split() for line in details.read_text().splitlines())["inactive_file"]
    return int(limit.read_text()) - int(used.read_text()) + int(cached)


def _obstacle(source: ImageSource, augmentation: Augmentation | RandomResizedCrop, device: torch.device) -> str | None:
    """Why this split cannot be made resident; None where it can."""
    if isinstance(augmentation, RandomResizedCrop):
        return "a random resized crop needs the image files"
    places = [device]
    if device.type == "cuda" and isinstance(source, ImageFiles):
        places.append(torch.device("cpu"))  # where they are decoded
    elif device.type == "cpu" and isinstance(source, ImageArrays):
        places = []  # they lie there already, and the loader copies nothing
    needed = resident_bytes(source)
    for place in places:
        free = free_bytes(place)
        if needed > _RESIDENT_SHARE * free:
            return (
                f"{len(source)} images of {'x'.join(map(str, source.image_shape))} take {_gigabytes(needed)}, "
                f"more than half of the {_gigabytes(free)} that are free on {place}"
            )
    return None


def _resident(source: ImageSource, settings: dict[str, Any]) -> ResidentLoader:
    if isinstance(source, ImageArrays):
        return ResidentLoader(source, **settings)
    damaged = CorruptFiles(source)
    return ResidentLoader(decode_all(source, damaged), damaged_files=damaged.paths, **settings)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
