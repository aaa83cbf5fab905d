"""The data sets by name. A new one is a function that reads it and one line in `SOURCES`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from engine.data import cifar, digits
from engine.data.arrays import DatasetDescription, ImageArrays
from engine.data.errors import DataError

__all__ = ["SOURCES", "Source", "describe", "load"]


class ReadSplit(Protocol):
    """Reads one split ("train" or "test"); raises DataError where the files cannot be used."""

    def __call__(self, root: Path | None, split: str, download: bool) -> ImageArrays: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set: what is known without opening a file, and how to read it."""

    description: DatasetDescription
    read: ReadSplit


SOURCES: dict[str, Source] = {
    "cifar10": Source(description=cifar.CIFAR10, read=cifar.read_cifar10),
    "cifar100": Source(description=cifar.CIFAR100, read=cifar.read_cifar100),
    "digits": Source(description=digits.DESCRIPTION, read=digits.read_digits),
}


def describe(name: str) -> DatasetDescription:
    """Image shape and class names of a data set, without opening a file. Raises ValueError for an unknown name."""
    return _source(name).description


def load(name: str, *, root: Path | None, split: Literal["train", "test"], download: bool) -> ImageArrays:
    """Read one split of a data set into memory.

    root: folder that holds the data set's own folder, None for data sets without files; download: fetch what is
    missing or damaged (with several processes let one of them load first).

    Raises ValueError for an unknown name or split, DataError (a ValueError) where the data are missing, damaged,
    unreadable or cannot be downloaded.
    """
    source = _source(name)
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; use train or test")
    arrays = source.read(root, split, download)
    found = DatasetDescription(image_shape=arrays.image_shape, class_names=arrays.class_names)
    if found != source.description:
        raise DataError(
            f"{name} holds images of shape {found.image_shape} in {found.num_classes} classes, which is not the "
            f"data set as published ({source.description.image_shape}, {source.description.num_classes} classes with "
            "its own names); fetch the data set again"
        )
    return arrays


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(sorted(SOURCES))}")
    return SOURCES[name]
