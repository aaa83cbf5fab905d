"""Tiny-ImageNet in its official layout: 200 classes, 64x64 JPEGs, the labels of the val split in a text file."""

import os
from collections import Counter
from pathlib import Path

from dat_engine.data.arrays import DatasetDescription
from dat_engine.data.datasets.folders import IMAGE_SUFFIXES, class_folders, image_files, images_below
from dat_engine.data.errors import DataError
from dat_engine.data.files.files import FileSettings, ImageFiles

__all__ = ["describe_tinyimagenet", "read_tinyimagenet"]

_FOLDER = "tiny-imagenet-200"
_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_IMAGE_SIZE = 64
_ANNOTATIONS = "val_annotations.txt"


def describe_tinyimagenet(root: Path | None, files: FileSettings) -> DatasetDescription:
    """The classes are the WordNet identifiers of `root`/tiny-imagenet-200/train in alphabetical order.

    They are named by the first word of words.txt, where that file is there; see `dat_engine.data.datasets.registry.describe`.
    """
    folder = _checked_folder(root)
    size = files.image_size or _IMAGE_SIZE
    return DatasetDescription(image_shape=(3, size, size), class_names=_names(folder, _identifiers(folder)))


def read_tinyimagenet(root: Path | None, split: str, download: bool, files: FileSettings) -> ImageFiles:
    """train, or val as the test split (the official test split has no labels); see `dat_engine.data.datasets.registry.load`."""
    folder = _checked_folder(root)
    identifiers = _identifiers(folder)
    if split == "train":
        by_class = [images_below(folder / "train" / identifier) for identifier in identifiers]
    else:
        by_class = _validation_by_class(folder / "val", identifiers)
    return image_files(
        by_class, _names(folder, identifiers), files, image_size=_IMAGE_SIZE, resize=files.image_size or _IMAGE_SIZE
    )


def _checked_folder(root: Path | None) -> Path:
    if root is None:
        raise DataError(f"tinyimagenet is read from files; give the data root, the folder that holds {_FOLDER}")
    root = root.expanduser()
    if root.exists() and not root.is_dir():
        raise DataError(f"data root {root} is a file; give the folder that holds {_FOLDER}")
    if root.name == _FOLDER and (root / "train").is_dir():
        raise DataError(
            f"data root {root} is the folder of tinyimagenet itself; give the folder above it, {root.parent}"
        )
    folder = root / _FOLDER
    if not folder.is_dir():
        raise DataError(
            f"tinyimagenet not found: looked for the folder {folder}; unpack {_URL} there, or give another data root"
        )
    return folder


def _identifiers(folder: Path) -> list[str]:
    """The class folders of train, checked against wnids.txt where that file is there."""
    found = class_folders(folder / "train")
    listed_in = folder / "wnids.txt"
    if listed_in.is_file():
        listed = _lines(listed_in)
        different = sorted(set(listed) ^ set(found))
        if different:
            place = "has no line in" if different[0] in found else "has no folder in train but a line in"
            raise DataError(
                f"class {different[0]} {place} {listed_in} ({len(different)} such classes); unpack {_URL} again"
            )
    return found


def _names(folder: Path, identifiers: list[str]) -> tuple[str, ...]:
    path = folder / "words.txt"
    if not path.is_file():
        return tuple(identifiers)
    fields = (line.split("\t", 1) for line in _lines(path))
    words = {field[0]: field[1].split(",")[0].strip() for field in fields if len(field) == 2}
    names = [words.get(identifier) or identifier for identifier in identifiers]
    # A word may stand for several classes: a crane is a bird and a machine.
    shared = Counter(names)
    return tuple(
        name if shared[name] == 1 else f"{name} ({identifier})"
        for name, identifier in zip(names, identifiers, strict=True)
    )


def _validation_by_class(folder: Path, identifiers: list[str]) -> list[list[str]]:
    images = folder / "images"
    if not images.is_dir():
        raise DataError(f"tinyimagenet has no val split: looked for the folder {images}; unpack {_URL} again")
    present = {name for name in _listed(images) if name.lower().endswith(IMAGE_SUFFIXES)}
    by_class: dict[str, list[str]] = {identifier: [] for identifier in identifiers}
    for name, identifier in _annotations(folder / _ANNOTATIONS).items():
        if identifier not in by_class:
            raise DataError(
                f"{folder / _ANNOTATIONS} labels {name} as {identifier}, which has no folder in train; "
                f"unpack {_URL} again"
            )
        if name not in present:
            raise DataError(f"{folder / _ANNOTATIONS} lists {name}, which is not in {images}; unpack {_URL} again")
        present.remove(name)
        by_class[identifier].append(str(images / name))
    if present:
        raise DataError(
            f"image {images / min(present)} has no line in {folder / _ANNOTATIONS} ({len(present)} such images); "
            f"unpack {_URL} again"
        )
    return [sorted(by_class[identifier]) for identifier in identifiers]


def _annotations(path: Path) -> dict[str, str]:
    """File name -> class, out of lines of tab-separated name, class and box."""
    if not path.is_file():
        raise DataError(f"label file {path} not found; unpack {_URL} again")
    labels: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[0] in labels:
            problem = "lists an image twice" if len(fields) >= 2 else "is not 'file name, tab, class, ...'"
            raise DataError(f"line {number} of {path} {problem} ({line[:60]!r}); unpack {_URL} again")
        labels[fields[0]] = fields[1]
    return labels


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError as error:
        raise _unreadable(path, error) from None


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions")
