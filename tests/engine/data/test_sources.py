"""Data sets by name: what is read, and one sentence for everything that can be wrong with the files."""

import gzip
import hashlib
import http.client
import os
import pickle
import socket
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from dat_engine.data import DataError, FileSettings, describe, load


def _load_error(root, download=False, name="cifar10", split="train"):
    with pytest.raises(DataError) as caught:
        load(name, root=root, split=split, download=download)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    # An uncaught error prints this sentence, not what pickle raised.
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


def _no_network(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_descriptions_need_no_files():
    assert describe("cifar10").image_shape == describe("cifar100").image_shape == (3, 32, 32)
    assert describe("digits").image_shape == (1, 16, 16)
    assert [describe(name).num_classes for name in ("cifar10", "cifar100", "digits")] == [10, 100, 10]
    for name in ("cifar10", "cifar100", "digits"):
        assert len(set(describe(name).class_names)) == describe(name).num_classes
    assert list(describe("cifar100").class_names) == sorted(describe("cifar100").class_names)
    assert describe("cifar100").class_names[::33] == ("apple", "forest", "raccoon", "worm")


def test_unknown_names_are_refused():
    for call in (describe, lambda name: load(name, root=None, split="train", download=False)):
        with pytest.raises(ValueError, match=r"no data set is called 'cifar11'; did you mean cifar10\?"):
            call("cifar11")
    with pytest.raises(ValueError, match="unknown split 'validation'; use train or test"):
        load("digits", root=None, split="validation", download=False)


def test_sizes_are_for_data_sets_of_files():
    for settings in (FileSettings(image_size=16), FileSettings(resize=16)):
        message = "image_size and resize are for data sets of image files, and digits holds images of 16x16; leave both"
        with pytest.raises(ValueError, match=message):
            describe("digits", files=settings)
        with pytest.raises(ValueError, match=message):
            load("digits", root=None, split="test", download=False, files=settings)
    assert len(load("digits", root=None, split="test", download=False, files=FileSettings(on_damaged="skip"))) == 359


def test_digits_are_enlarged_and_split_class_by_class():
    from sklearn.datasets import load_digits

    train, test = (load("digits", root=None, split=split, download=False) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    assert train.image_shape == test.image_shape == describe("digits").image_shape
    shares = torch.bincount(test.targets) / (torch.bincount(train.targets) + torch.bincount(test.targets))
    assert ((shares - 0.2).abs() < 0.005).all()
    together = [tuple(image.flatten().tolist()) for image in torch.cat([train.images, test.images])]
    assert len(set(together)) == 1797
    assert torch.equal(load("digits", root=None, split="test", download=False).images, test.images)
    assert train.images.max() == 255 and train.images.min() == 0
    # Twice the size: every new pixel lies a quarter of the old spacing from an old one, the border is repeated.
    enlarge = torch.zeros(16, 8, dtype=torch.float64)
    for new in range(16):
        enlarge[new, new // 2] += 0.75
        enlarge[new, min(max(new // 2 + (1 if new % 2 else -1), 0), 7)] += 0.25
    grey = torch.from_numpy(load_digits().images) * 255 / 16
    expected = (enlarge @ grey @ enlarge.T).round().to(torch.uint8)
    assert {tuple(image.flatten().tolist()) for image in expected} == set(together)


def test_cifar10_is_read_as_stored(fake_cifar10):
    train, test = (load("cifar10", root=fake_cifar10.root, split=split, download=False) for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 4)
    assert train.class_names == describe("cifar10").class_names
    for number in range(5):
        stored = fake_cifar10.content[f"data_batch_{number + 1}"]
        rows = slice(4 * number, 4 * number + 4)
        assert torch.equal(train.images[rows], torch.from_numpy(stored["data"]).view(4, 3, 32, 32))
        assert train.targets[rows].tolist() == stored["labels"]
    assert test.targets.tolist() == fake_cifar10.content["test_batch"]["labels"]


def test_cifar100_takes_the_fine_labels(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = list(describe("cifar100").class_names)
    content = {
        "train": {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [99, 3], "coarse_labels": [1, 2]},
        "test": {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [50], "coarse_labels": [1]},
        "meta": {"fine_label_names": names, "coarse_label_names": ["x"]},
    }
    md5 = {}
    for name, entry in content.items():
        (folder / name).write_bytes(pickle.dumps(entry))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5["meta"]})
    arrays = load("cifar100", root=tmp_path, split="train", download=False)
    assert arrays.targets.tolist() == [99, 3]
    assert arrays.class_names[99] == "worm"


def test_present_files_are_not_downloaded_again(fake_cifar10, monkeypatch):
    _no_network(monkeypatch, AssertionError("network used"))
    assert len(load("cifar10", root=fake_cifar10.root, split="test", download=True)) == 4


def test_download_replaces_damaged_files(fake_cifar10, monkeypatch):
    from torchvision.datasets import CIFAR10

    whole = (fake_cifar10.folder / "data_batch_2").read_bytes()
    (fake_cifar10.folder / "data_batch_2").write_bytes(whole[:100])

    def fetch(self):
        (fake_cifar10.folder / "data_batch_2").write_bytes(whole)

    monkeypatch.setattr(CIFAR10, "download", fetch)
    assert len(load("cifar10", root=fake_cifar10.root, split="train", download=True)) == 20


def test_damaged_files_are_named_where_no_download_can_replace_them(fake_cifar10, monkeypatch):
    path = fake_cifar10.folder / "data_batch_2"
    path.write_bytes(path.read_bytes()[:100])
    _no_network(monkeypatch, urllib.error.URLError("Name or service not known"))
    sentence = _load_error(fake_cifar10.root, download=True)
    assert sentence.startswith(f"cifar10 file {path} is damaged (md5 ") and "cannot be downloaded" not in sentence
    assert sentence.endswith("(a download failed: Name or service not known)")


def test_missing_root_is_asked_for():
    assert _load_error(None) == (
        "cifar10 is read from files; give the data root, the folder that holds cifar-10-batches-py"
    )


def test_root_that_is_a_file(tmp_path):
    root = tmp_path / "data"
    root.write_text("")
    assert _load_error(root) == f"data root {root} is a file; give the folder that holds cifar-10-batches-py"


def test_root_that_is_the_folder_of_the_data_set(fake_cifar10):
    for download in (False, True):
        message = _load_error(fake_cifar10.folder, download=download)
        assert message.endswith(f"is the folder of cifar10 itself; give the folder above it, {fake_cifar10.root}")


def test_folder_that_is_not_there(tmp_path):
    assert _load_error(tmp_path / "nowhere") == (
        f"cifar10 not found: looked for the folder {tmp_path}/nowhere/cifar-10-batches-py; "
        "put the official files there, give another data root, or allow the download"
    )
    assert "looked for the folder" in _load_error(tmp_path, name="cifar100")


def test_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/data/cifar-10-batches-py" in _load_error(Path("~/data"))


def test_missing_files_are_named(fake_cifar10):
    (fake_cifar10.folder / "data_batch_3").unlink()
    (fake_cifar10.folder / "batches.meta").unlink()
    assert _load_error(fake_cifar10.root, split="test") == (
        f"cifar10 is incomplete: data_batch_3, batches.meta missing in {fake_cifar10.folder}; "
        "copy the official files there, or allow the download"
    )


def test_damaged_file_is_named(fake_cifar10):
    path = fake_cifar10.folder / "data_batch_4"
    path.write_bytes(path.read_bytes()[:-50])
    message = _load_error(fake_cifar10.root)
    assert message.startswith(f"cifar10 file {path} is damaged (md5 ")
    assert message.endswith("copy it again, or delete it and allow the download")


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95", b"no pickle at all", pickle.dumps([1, 2])])
def test_content_that_is_no_cifar_batch(fake_cifar10, content):
    (fake_cifar10.folder / "data_batch_1").write_bytes(content)
    fake_cifar10.accept()
    message = _load_error(fake_cifar10.root)
    assert message.startswith(f"cifar10 in {fake_cifar10.folder} is damaged (")
    assert message.endswith("delete that folder and fetch the data set again")


@pytest.mark.parametrize(
    "change",
    [
        {"data": np.zeros((4, 100), np.uint8)},
        {"data": np.zeros((4, 3072), np.float32)},
        {"labels": [0, 1]},
        {"labels": [0, 1, 2, 10]},
        {"labels": [0, 1, 2, "three"]},
    ],
    ids=["shape", "dtype", "fewer labels", "label out of range", "label that is a word"],
)
def test_content_of_another_shape(fake_cifar10, change):
    fake_cifar10.content["test_batch"].update(change)
    fake_cifar10.write()
    assert "is damaged (" in _load_error(fake_cifar10.root, split="test")


def test_other_class_names_than_published(fake_cifar10):
    fake_cifar10.content["batches.meta"]["label_names"][3] = "dragon"
    fake_cifar10.write()
    message = _load_error(fake_cifar10.root)
    assert message.startswith("cifar10 holds images of shape (3, 32, 32) in 10 classes, which is not the data set as")


def test_file_that_cannot_be_opened(fake_cifar10):
    path = fake_cifar10.folder / "data_batch_5"
    path.unlink()
    path.symlink_to(path)  # opening it fails for every user, root too
    for download in (False, True):
        message = _load_error(fake_cifar10.root, download=download)
        assert message.startswith(f"cifar10 file {path} cannot be read (")
        assert message.endswith("check the path and its permissions")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file, whatever its permissions")
def test_file_without_permission(fake_cifar10):
    path = fake_cifar10.folder / "data_batch_5"
    path.chmod(0)
    assert "(Permission denied); check" in _load_error(fake_cifar10.root)


def test_permission_refused_while_reading(fake_cifar10, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", refuse)
    assert _load_error(fake_cifar10.root) == (
        f"cifar10 in {fake_cifar10.root} cannot be read (Permission denied); check the permissions of its files"
    )


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "cifar-10-batches-py").write_text("")
    assert "cannot be read (Not a directory)" in _load_error(tmp_path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "timed out"),
        (urllib.error.HTTPError("https://x", 404, "Not Found", {}, None), "Not Found"),
        (http.client.BadStatusLine("garbage"), "garbage"),
    ],
)
def test_download_without_network(tmp_path, monkeypatch, error, reason):
    _no_network(monkeypatch, error)
    root = tmp_path / "new"
    assert _load_error(root, download=True) == (
        f"cifar10 cannot be downloaded from https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz to {root} "
        f"({reason}); check network, disk space and permissions, "
        f"or put the official files into {root}/cifar-10-batches-py"
    )


def test_download_of_another_file(tmp_path, monkeypatch):
    def save_other(url, path, *_):
        Path(path).write_bytes(gzip.compress(b"not the archive"))

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", save_other)
    assert "cannot be downloaded from" in _load_error(tmp_path, download=True)


def test_download_that_stalls_ends(tmp_path, monkeypatch):
    timeouts = []

    def stall(*_, **__):
        timeouts.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib.request.urlopen", stall)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)
    try:
        _load_error(tmp_path, download=True)
        assert timeouts and all(timeouts)
        assert socket.getdefaulttimeout() is None
    finally:
        socket.setdefaulttimeout(before)


def test_real_cifar10(data_root):
    test = load("cifar10", root=data_root, split="test", download=False)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(test.targets).tolist() == [1000] * 10
    assert [test.class_names[target] for target in test.targets[:4]] == ["cat", "ship", "ship", "airplane"]
    mean = test.images.double().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4942, 0.4851, 0.4504], dtype=torch.float64), atol=1e-4, rtol=0)
