"""Small data for the tests of dat_engine.data, and the data root of the tests that want the real one."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from dat_engine.data import ImageArrays, ImageFiles
from tests.engine.data.pictures import photograph

FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
IMAGES_PER_FILE = 4


@pytest.fixture
def small_arrays():
    """A function (n, image_shape, classes) -> ImageArrays of random images with every class equally often."""

    def make(n=24, image_shape=(3, 8, 8), classes=4):
        generator = torch.Generator().manual_seed(7)
        return ImageArrays(
            images=torch.randint(0, 256, (n, *image_shape), generator=generator, dtype=torch.uint8),
            targets=torch.arange(n) % classes,
            class_names=tuple(f"class{number}" for number in range(classes)),
        )

    return make


@pytest.fixture
def jpegs(tmp_path):
    """A function (n, size, classes, ...) -> ImageFiles of n JPEGs of a size, or of several by turns."""

    def make(n=24, *, sizes=((20, 16),), classes=4, image_size=16, resize=16, on_damaged="fatal"):
        paths = [tmp_path / f"{number:03}.jpg" for number in range(n)]
        for number, path in enumerate(paths):
            photograph(*sizes[number % len(sizes)], seed=number).save(path, quality=90)
        return ImageFiles(
            paths=tuple(map(str, paths)),
            targets=torch.arange(n) % classes,
            class_names=tuple(f"class{number}" for number in range(classes)),
            image_size=image_size,
            resize=resize,
            on_damaged=on_damaged,
        )

    return make


def _data_root(folder):
    root = Path(os.environ.get("DAT_DATA_ROOT") or Path(__file__).parents[4] / "shared" / "data")
    if not (root / folder).is_dir():
        pytest.skip(f"no {folder} in the data root {root}; set DAT_DATA_ROOT to the folder that holds it")
    return root


@pytest.fixture
def data_root():
    """The folder with the real CIFAR-10; skips where there is none."""
    return _data_root("cifar-10-batches-py")


@pytest.fixture
def tinyimagenet_root():
    """The folder with the real Tiny-ImageNet, or a part of it; skips where there is none."""
    return _data_root("tiny-imagenet-200")


@pytest.fixture
def fake_cifar10(tmp_path, monkeypatch):
    """A data root with a CIFAR-10 of 20 training and 4 test images whose md5 sums torchvision is told to expect."""
    return FakeCifar10(tmp_path, monkeypatch)


class FakeCifar10:
    def __init__(self, root, monkeypatch):
        self.root = root
        self.folder = root / "cifar-10-batches-py"
        self.folder.mkdir()
        self._monkeypatch = monkeypatch
        rng = np.random.default_rng(3)
        self.content = {
            name: {
                "data": rng.integers(0, 256, (IMAGES_PER_FILE, 3072), dtype=np.uint8),
                "labels": rng.integers(0, 10, IMAGES_PER_FILE).tolist(),
            }
            for name in FILES[:-1]
        }
        names = "airplane automobile bird cat deer dog frog horse ship truck"
        self.content["batches.meta"] = {"label_names": names.split()}
        self.write()

    def write(self):
        for name, content in self.content.items():
            (self.folder / name).write_bytes(pickle.dumps(content))
        self.accept()

    def accept(self):
        """Make the files as they now are the official ones."""
        from torchvision.datasets import CIFAR10

        md5 = {name: hashlib.md5((self.folder / name).read_bytes()).hexdigest() for name in FILES}
        self._monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in FILES[:5]])
        self._monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
        self._monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
