"""Tiny-ImageNet's official layout: what is read, and one sentence for everything that can be wrong with it."""

import re
from pathlib import Path

import pytest
import torch

from dat_engine.data import DataError, FileSettings, describe, load
from tests.engine.data.pictures import photograph

IDENTIFIERS = ("n03", "n01", "n02")  # as wnids.txt has them: in no order
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


@pytest.fixture
def folder(tmp_path):
    """tiny-imagenet-200 with three classes of two training images, and three validation images."""
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    for identifier in IDENTIFIERS:
        images = folder / "train" / identifier / "images"
        images.mkdir(parents=True)
        for number in range(2):
            photograph(64, 64, seed=number).save(images / f"{identifier}_{number}.JPEG")
        (folder / "train" / identifier / f"{identifier}_boxes.txt").write_text(f"{identifier}_0.JPEG\t0\t0\t9\t9\n")
    for number in range(3):
        photograph(64, 64, seed=number).save(folder / "val" / "images" / f"val_{number}.JPEG")
    lines = [f"val_{number}.JPEG\t{name}\t0\t0\t9\t9" for number, name in enumerate(("n02", "n01", "n02"))]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "wnids.txt").write_text("\n".join(IDENTIFIERS) + "\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane, machine\nn99\tnone\n")
    return folder


def _load(folder, split="train", **settings):
    return load("tinyimagenet", root=folder.parent, split=split, download=False, files=FileSettings(**settings))


def _error(folder, split="test"):
    with pytest.raises(DataError) as caught:
        _load(folder, split)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


def test_training_images_are_found_below_their_class(folder):
    files = _load(folder)
    assert [Path(path).name for path in files.paths] == [
        f"{identifier}_{number}.JPEG" for identifier in ("n01", "n02", "n03") for number in range(2)
    ]
    assert files.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert (files.image_shape, files.resize) == ((3, 64, 64), 64)
    smaller = _load(folder, image_size=32, on_damaged="skip")
    assert (smaller.image_size, smaller.resize, smaller.on_damaged) == (32, 32, "skip")


def test_validation_images_take_their_labels_from_the_file(folder):
    files = _load(folder, "test")
    labels = {Path(path).name: target for path, target in zip(files.paths, files.targets.tolist(), strict=True)}
    assert labels == {"val_0.JPEG": 1, "val_1.JPEG": 0, "val_2.JPEG": 1}
    assert files.class_names == _load(folder).class_names


def test_classes_are_named_by_their_first_word(folder):
    found = describe("tinyimagenet", folder.parent)
    assert found.class_names == ("goldfish", "crane (n02)", "crane (n03)")  # one word for two of them
    assert found.image_shape == (3, 64, 64)
    (folder / "words.txt").unlink()
    assert describe("tinyimagenet", folder.parent).class_names == ("n01", "n02", "n03")


def test_the_list_of_classes_may_be_missing(folder):
    (folder / "wnids.txt").unlink()
    assert _load(folder).num_classes == 3


def test_roots_that_do_not_hold_it(folder, tmp_path):
    with pytest.raises(DataError) as caught:
        load("tinyimagenet", root=None, split="train", download=False)
    assert str(caught.value) == (
        "tinyimagenet is read from files; give the data root, the folder that holds tiny-imagenet-200"
    )
    assert _error(tmp_path / "nowhere" / "x") == (
        f"tinyimagenet not found: looked for the folder {tmp_path}/nowhere/tiny-imagenet-200; "
        f"unpack {URL} there, or give another data root"
    )
    assert _error(folder / "x").endswith(f"is the folder of tinyimagenet itself; give the folder above it, {tmp_path}")
    (tmp_path / "file").write_text("")
    assert _error(tmp_path / "file" / "x").endswith("file is a file; give the folder that holds tiny-imagenet-200")


def test_missing_splits(folder):
    (folder / "val" / "images").rename(folder / "val" / "elsewhere")
    assert _error(folder) == (
        f"tinyimagenet has no val split: looked for the folder {folder}/val/images; unpack {URL} again"
    )
    (folder / "train").rename(folder / "elsewhere")
    assert _error(folder, "train").startswith(f"folder {folder}/train not found; ")


def test_empty_class_folder(folder):
    for path in (folder / "train/n02/images").iterdir():
        path.unlink()
    assert _error(folder, "train").startswith(f"class folder {folder}/train/n02 holds no image (")


def test_list_of_classes_that_does_not_match(folder):
    path = folder / "wnids.txt"
    path.write_text("n01\nn02\n")
    assert _error(folder, "train") == f"class n03 has no line in {path} (1 such classes); unpack {URL} again"
    path.write_text("n01\nn02\nn03\nn04\n")
    assert _error(folder, "train") == (
        f"class n04 has no folder in train but a line in {path} (1 such classes); unpack {URL} again"
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("val_3.JPEG\tn01\t0\t0\t9\t9", "lists val_3.JPEG, which is not in"),
        ("val_0.JPEG\tn01\t0\t0\t9\t9", "line 4 of .* lists an image twice"),
        ("val_3.JPEG n01 0 0 9 9", "line 4 of .* is not 'file name, tab, class, ...'"),
    ],
)
def test_label_file_with_a_line_too_many(folder, line, problem):
    path = folder / "val" / "val_annotations.txt"
    path.write_text(path.read_text() + line + "\n")
    message = _error(folder)
    assert re.search(problem, message) and str(path) in message and message.endswith(f"unpack {URL} again")


def test_label_file_with_a_class_that_does_not_exist(folder):
    path = folder / "val" / "val_annotations.txt"
    path.write_text(path.read_text().replace("n01", "n07"))
    assert _error(folder) == (f"{path} labels val_1.JPEG as n07, which has no folder in train; unpack {URL} again")


def test_label_file_with_a_line_too_few(folder):
    path = folder / "val" / "val_annotations.txt"
    path.write_text(path.read_text().split("\n", 1)[1])
    assert _error(folder) == (
        f"image {folder}/val/images/val_0.JPEG has no line in {path} (1 such images); unpack {URL} again"
    )


def test_label_file_that_is_missing_or_unreadable(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = folder / "val" / "val_annotations.txt"
    path.unlink()
    assert _error(folder) == f"label file {path} not found; unpack {URL} again"
    monkeypatch.setattr(Path, "read_text", refuse)
    assert _error(folder) == (
        f"{folder}/wnids.txt cannot be read (Permission denied); check the path and its permissions"
    )


def test_real_tiny_imagenet(tinyimagenet_root):
    train, test = (
        load("tinyimagenet", root=tinyimagenet_root, split=split, download=False) for split in ("train", "test")
    )
    assert train.num_classes == test.num_classes == 200
    assert train.class_names[:3] == ("goldfish", "European fire salamander", "bullfrog")
    assert len(set(torch.bincount(train.targets, minlength=200).tolist())) == 1
    assert len(set(torch.bincount(test.targets, minlength=200).tolist())) == 1
    assert len(set(train.class_names)) == 200
    assert len(set(train.paths)) == len(train) and len(set(test.paths)) == len(test)
