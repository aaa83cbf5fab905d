"""Image folders with one folder per class, as torchvision's ImageFolder reads them: a user's own data, and ImageNet.

Walked here and not by torchvision's `find_classes` and `make_dataset`, which take hidden folders for classes, follow a link
that leads in a circle until the system stops them (40 copies of each image), and pass in silence over folders that they may
not open.
"""

import os
from pathlib import Path

import torch

from dat_engine.data.arrays import DatasetDescription
from dat_engine.data.errors import DataError
from dat_engine.data.files.files import FileSettings, ImageFiles

__all__ = [
    "IMAGE_SUFFIXES",
    "class_folders",
    "describe_imagefolder",
    "describe_imagenet",
    "image_files",
    "images_below",
    "read_imagefolder",
    "read_imagenet",
]

# What Pillow and DALI both decode.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

_IMAGE_SIZE = 224
# The usual evaluation crop takes 224 pixels out of 256.
_RESIZE_OVER_SIZE = 256 / 224


def describe_imagefolder(root: Path | None, files: FileSettings) -> DatasetDescription:
    """The classes are the folders in `root`/train, in alphabetical order; see `dat_engine.data.datasets.registry.describe`."""
    return _described(_checked_root("imagefolder", root), files)


def read_imagefolder(root: Path | None, split: str, download: bool, files: FileSettings) -> ImageFiles:
    """`root`/train, or `root`/test (`root`/val where there is no test); see `dat_engine.data.datasets.registry.load`.

    Both splits must have the same class folders; folders inside a class folder belong to the class.
    """
    return _read("imagefolder", _checked_root("imagefolder", root), split, files)


def describe_imagenet(root: Path | None, files: FileSettings) -> DatasetDescription:
    """As `describe_imagefolder`, for `root`/imagenet, or `root` where it has no such folder."""
    return _described(_imagenet_root(root), files)


def read_imagenet(root: Path | None, split: str, download: bool, files: FileSettings) -> ImageFiles:
    """As `read_imagefolder`, for `root`/imagenet, or `root` where it has no such folder."""
    return _read("imagenet", _imagenet_root(root), split, files)


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders of a split, sorted; hidden ones do not count. DataError where there is none."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        raise DataError(
            f"folder {folder} not found; put one folder per class there, or give another data root"
        ) from None
    except OSError as error:
        raise _unreadable(error) from None
    if not names:
        raise DataError(f"{folder} holds no class folders; put the images of each class into a folder of its own")
    return names


def images_below(class_folder: Path) -> list[str]:
    """Paths of the images in a class folder and the folders below it, sorted. DataError where there is none.

    A link to a folder is not followed below the class folder: it may lead in a circle.
    """
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(class_folder, onerror=_refuse)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise DataError(
            f"class folder {class_folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); put images into it or delete it"
        )
    return sorted(found)


def image_files(
    by_class: list[list[str]], class_names: tuple[str, ...], files: FileSettings, *, image_size: int, resize: int
) -> ImageFiles:
    """A split out of the paths of each class, in the order of the classes; the settings win over the sizes given."""
    return ImageFiles(
        paths=tuple(path for paths in by_class for path in paths),
        targets=torch.repeat_interleave(torch.tensor([len(paths) for paths in by_class])),
        class_names=class_names,
        image_size=files.image_size or image_size,
        resize=files.resize or resize,
        on_damaged=files.on_damaged,
    )


def _described(folder: Path, files: FileSettings) -> DatasetDescription:
    size = files.image_size or _IMAGE_SIZE
    return DatasetDescription(image_shape=(3, size, size), class_names=tuple(class_folders(folder / "train")))


def _read(name: str, folder: Path, split: str, files: FileSettings) -> ImageFiles:
    classes = _described(folder, files).class_names
    split_folder = folder / "train"
    if split == "test":
        split_folder = folder / "test" if (folder / "test").is_dir() else folder / "val"
        if not split_folder.is_dir():
            raise DataError(
                f"{name} has no test split: looked for the folders {folder / 'test'} and {split_folder}; "
                "put images that are not in train into one of them, in the same class folders"
            )
        _check_same_classes(class_folders(split_folder), classes, split_folder)
    image_size = files.image_size or _IMAGE_SIZE
    return image_files(
        [images_below(split_folder / name) for name in classes],
        classes,
        files,
        image_size=image_size,
        resize=round(image_size * _RESIZE_OVER_SIZE),
    )


def _check_same_classes(found: list[str], expected: tuple[str, ...], folder: Path) -> None:
    unknown, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    if unknown:
        raise DataError(
            f"class folder {folder / unknown[0]} has no counterpart in train ({len(unknown)} such folders); "
            "the splits must have the same class folders"
        )
    if missing:
        raise DataError(
            f"{folder} has no folder for class {missing[0]} of train ({len(missing)} such classes); "
            "the splits must have the same class folders"
        )


def _imagenet_root(root: Path | None) -> Path:
    root = _checked_root("imagenet", root)
    return root / "imagenet" if (root / "imagenet").is_dir() else root


def _checked_root(name: str, root: Path | None) -> Path:
    needed = "the folder that holds train and val (or test)"
    if root is None:
        raise DataError(f"{name} is read from files; give the data root, {needed}")
    root = root.expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"data root {root} {what}; give {needed}")
    return root


def _refuse(error: OSError) -> None:
    raise _unreadable(error) from None


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"folder {error.filename} cannot be read ({error.strerror or error}); check the path and its permissions"
    )
