"""The data sets by name. A new one is a function that describes it, one that reads it, and one line in `SOURCES`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from dat_engine.data.arrays import DatasetDescription, ImageArrays
from dat_engine.data.datasets import cifar, digits, folders, tinyimagenet
from dat_engine.data.errors import DataError
from dat_engine.data.files.files import FileSettings, ImageSource
from dat_engine.errors import UserError, unknown_name

__all__ = ["SOURCES", "Source", "describe", "in_memory", "load", "needs_files"]

_AS_PUBLISHED = FileSettings()


class Describe(Protocol):
    """Image shape and class names; raises DataError where they are to be found in a folder that cannot be used."""

    def __call__(self, root: Path | None, files: FileSettings) -> DatasetDescription: ...


class ReadSplit(Protocol):
    """Reads one split ("train" or "test"); raises DataError where the files cannot be used."""

    def __call__(self, root: Path | None, split: str, download: bool, files: FileSettings) -> ImageSource: ...


class ReadArrays(Protocol):
    """Reads one split of a data set that is held in memory and has images of one size."""

    def __call__(self, root: Path | None, split: str, download: bool) -> ImageArrays: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set: how to describe it, and how to read it."""

    describe: Describe
    read: ReadSplit
    reads_files: bool = True
    """Whether it lies under the data root; False where a package brings it."""


def in_memory(name: str, description: DatasetDescription, read: ReadArrays, *, reads_files: bool = True) -> Source:
    """A data set that is held in memory: what `read` gives is compared with the published `description`."""

    def check_size(files: FileSettings) -> None:
        if files.image_size is not None or files.resize is not None:
            _, height, width = description.image_shape
            raise UserError(
                f"image_size and resize are for data sets of image files, and {name} holds images of {height}x{width}; "
                "leave both out"
            )

    def describe_it(root: Path | None, files: FileSettings) -> DatasetDescription:
        check_size(files)
        return description

    def read_it(root: Path | None, split: str, download: bool, files: FileSettings) -> ImageArrays:
        check_size(files)
        arrays = read(root, split, download)
        found = DatasetDescription(image_shape=arrays.image_shape, class_names=arrays.class_names)
        if found != description:
            raise DataError(
                f"{name} holds images of shape {found.image_shape} in {found.num_classes} classes, which is not the "
                f"data set as published ({description.image_shape}, {description.num_classes} classes with "
                "its own names); fetch the data set again"
            )
        return arrays

    return Source(describe=describe_it, read=read_it, reads_files=reads_files)


SOURCES: dict[str, Source] = {
    "cifar10": in_memory("cifar10", cifar.CIFAR10, cifar.read_cifar10),
    "cifar100": in_memory("cifar100", cifar.CIFAR100, cifar.read_cifar100),
    "digits": in_memory("digits", digits.DESCRIPTION, digits.read_digits, reads_files=False),
    "imagefolder": Source(describe=folders.describe_imagefolder, read=folders.read_imagefolder),
    "imagenet": Source(describe=folders.describe_imagenet, read=folders.read_imagenet),
    "tinyimagenet": Source(describe=tinyimagenet.describe_tinyimagenet, read=tinyimagenet.read_tinyimagenet),
}


def describe(name: str, root: Path | None = None, *, files: FileSettings = _AS_PUBLISHED) -> DatasetDescription:
    """Image shape and class names of a data set, without reading an image.

    root: the data root, looked into only for data sets whose classes are folders (imagefolder, imagenet,
    tinyimagenet); files: as for `load`.

    Raises UserError for an unknown name, DataError where the folders are needed and not usable.
    """
    return _source(name).describe(root, files)


def needs_files(name: str) -> bool:
    """Whether a data set lies under the data root. Raises UserError for an unknown name."""
    return _source(name).reads_files


def load(
    name: str,
    *,
    root: Path | None,
    split: Literal["train", "test"],
    download: bool,
    files: FileSettings = _AS_PUBLISHED,
) -> ImageSource:
    """Read one split of a data set: into memory, or, for data sets of image files, the list of its files.

    root: folder that holds the data set's own folder (imagefolder: train and val themselves), None for data sets
    without files; download: fetch what is missing or damaged, where the data set can be fetched (cifar10, cifar100;
    with several processes let one of them load first); files: how image files are read.

    Raises UserError for an unknown name or split or settings that do not fit, DataError where the data
    are missing, damaged, unreadable or cannot be downloaded.
    """
    source = _source(name)
    if split not in ("train", "test"):
        raise UserError(f"unknown split {split!r}; use train or test")
    return source.read(root, split, download, files)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise unknown_name("data set", name, SOURCES)
    return SOURCES[name]
