"""CIFAR-10 and CIFAR-100 in the authors' own files, read and verified by torchvision."""

import hashlib
import http.client
import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dat_engine.data.arrays import DatasetDescription, ImageArrays
from dat_engine.data.errors import DataError

__all__ = ["CIFAR10", "CIFAR100", "read_cifar10", "read_cifar100"]

CIFAR10 = DatasetDescription(
    image_shape=(3, 32, 32),
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
# In the order of the official file.
_FINE_LABELS = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = DatasetDescription(image_shape=(3, 32, 32), class_names=tuple(_FINE_LABELS.split()))

_STALLED_AFTER_SECONDS = 60.0
# What a damaged pickle makes Python raise, and torchvision or ImageArrays where the content is something else.
_DAMAGED = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError)
# RuntimeError is torchvision's word for an archive with another md5.
_DOWNLOAD_FAILED = (OSError, RuntimeError, http.client.HTTPException)


def read_cifar10(root: Path | None, split: str, download: bool) -> ImageArrays:
    """CIFAR-10 from `root`/cifar-10-batches-py; see `dat_engine.data.datasets.registry.load`."""
    from torchvision.datasets import CIFAR10 as Archive

    return _read("cifar10", Archive, root, split, download)


def read_cifar100(root: Path | None, split: str, download: bool) -> ImageArrays:
    """CIFAR-100 with its fine labels from `root`/cifar-100-python; see `dat_engine.data.datasets.registry.load`."""
    from torchvision.datasets import CIFAR100 as Archive

    return _read("cifar100", Archive, root, split, download)


def _read(name: str, archive: Any, root: Path | None, split: str, download: bool) -> ImageArrays:
    root = _checked_root(name, archive, root)
    problem = _problem(name, archive, root) if download else None
    if problem is not None:
        _download(name, archive, root, problem)
    try:
        dataset = archive(root, train=split == "train", download=False)
        return ImageArrays(
            images=torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(),
            targets=torch.tensor(dataset.targets, dtype=torch.int64),
            class_names=tuple(dataset.classes),
        )
    except RuntimeError as error:
        raise DataError(_problem(name, archive, root) or f"{name} in {root} cannot be read: {error}") from None
    except OSError as error:
        raise DataError(
            f"{name} in {root} cannot be read ({error.strerror or error}); check the permissions of its files"
        ) from None
    except _DAMAGED as error:
        raise DataError(
            f"{name} in {root / archive.base_folder} is damaged ({type(error).__name__}: {error}); "
            "delete that folder and fetch the data set again"
        ) from None


def _checked_root(name: str, archive: Any, root: Path | None) -> Path:
    if root is None:
        raise DataError(f"{name} is read from files; give the data root, the folder that holds {archive.base_folder}")
    root = root.expanduser()
    if root.exists() and not root.is_dir():
        raise DataError(f"data root {root} is a file; give the folder that holds {archive.base_folder}")
    if root.name == archive.base_folder and (root / archive.meta["filename"]).exists():
        raise DataError(f"data root {root} is the folder of {name} itself; give the folder above it, {root.parent}")
    return root


def _problem(name: str, archive: Any, root: Path) -> str | None:
    """What a download would mend, in one sentence; None where every md5 is the official one.

    Raises DataError for a file that is there but cannot be opened, which no download mends.
    """
    folder = root / archive.base_folder
    official = [*archive.train_list, *archive.test_list, (archive.meta["filename"], archive.meta["md5"])]
    if not folder.exists():
        return (
            f"{name} not found: looked for the folder {folder}; "
            "put the official files there, give another data root, or allow the download"
        )
    missing = []
    for filename, md5 in official:
        path = folder / filename
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except FileNotFoundError:
            missing.append(filename)
            continue
        except OSError as error:
            raise DataError(
                f"{name} file {path} cannot be read ({error.strerror or error}); check the path and its permissions"
            ) from None
        if found != md5:
            return (
                f"{name} file {path} is damaged (md5 {found}, the official one is {md5}); "
                "copy it again, or delete it and allow the download"
            )
    if missing:
        return (
            f"{name} is incomplete: {', '.join(missing)} missing in {folder}; "
            "copy the official files there, or allow the download"
        )
    return None


def _download(name: str, archive: Any, root: Path, problem: str) -> None:
    try:
        with _socket_timeout(_STALLED_AFTER_SECONDS):
            archive(root, train=False, download=True)
    except _DOWNLOAD_FAILED as error:
        if (root / archive.base_folder).exists():  # what is wrong is in the files that are there
            raise DataError(f"{problem} (a download failed: {getattr(error, 'reason', error)})") from None
        raise DataError(
            f"{name} cannot be downloaded from {archive.url} to {root} ({getattr(error, 'reason', error)}); "
            f"check network, disk space and permissions, or put the official files into {root / archive.base_folder}"
        ) from None


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision sets no timeout of its own, and a stalled connection would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
