"""Image folders by class: what is read, and one sentence for everything that can be wrong with them."""

import pytest
import torch

from dat_engine.data import DataError, FileSettings, describe, load
from tests.engine.data.pictures import photograph


@pytest.fixture
def folder(tmp_path):
    """A function (layout) -> root, where the layout names the files, an image each."""

    def make(*files, root=tmp_path):
        for number, file in enumerate(files):
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(10, 12, seed=number).save(path)
        return root

    return make


TRAIN = ("train/cat/1.jpg", "train/cat/0.jpg", "train/dog/7.png", "train/ant/x.jpeg")


def _load(root, split="train", name="imagefolder", **settings):
    return load(name, root=root, split=split, download=False, files=FileSettings(**settings))


def _error(root, split="train", name="imagefolder"):
    with pytest.raises(DataError) as caught:
        _load(root, split, name)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


@pytest.mark.parametrize("name", ["imagefolder", "imagenet"])
def test_classes_are_the_folders_in_alphabetical_order(folder, name):
    root = folder(*TRAIN)
    files = _load(root, name=name)
    assert files.class_names == describe(name, root).class_names == ("ant", "cat", "dog")
    assert files.paths == tuple(
        str(root / path) for path in ("train/ant/x.jpeg", "train/cat/0.jpg", "train/cat/1.jpg", "train/dog/7.png")
    )
    assert files.targets.tolist() == [0, 1, 1, 2]
    assert files.image_shape == describe(name, root).image_shape == (3, 224, 224)
    assert (files.resize, files.on_damaged) == (256, "fatal")


def test_the_same_files_as_torchvision(folder):
    from torchvision.datasets import ImageFolder

    root = folder(*TRAIN, "train/dog/inner/8.jpg", "train/Zebra/0.jpg")
    files = _load(root)
    expected = ImageFolder(root / "train")
    assert list(zip(files.paths, files.targets.tolist(), strict=True)) == expected.samples
    assert list(files.class_names) == expected.classes


def test_settings_of_the_user_win(folder):
    root = folder(*TRAIN)
    files = _load(root, image_size=64, resize=64, on_damaged="skip")
    assert (files.image_shape, files.resize, files.on_damaged) == ((3, 64, 64), 64, "skip")
    assert _load(root, image_size=112).resize == 128
    assert describe("imagefolder", root, files=FileSettings(image_size=64)).image_shape == (3, 64, 64)


def test_what_is_no_image_is_passed_over(folder):
    root = folder(*TRAIN, "train/.cache/0.jpg")
    for path in ("train/notes.txt", "train/cat/Thumbs.db", "train/cat/._1.jpg"):
        (root / path).write_text("")
    assert len(_load(root)) == 4 and describe("imagefolder", root).num_classes == 3


@pytest.mark.parametrize("present", [("val",), ("test",), ("val", "test")])
def test_the_test_split_is_test_or_else_val(folder, present):
    root = folder(*TRAIN)
    for split in present:
        folder(*(f"{split}/{name}/{split}.jpg" for name in ("cat", "dog", "ant")))
    files = _load(root, "test")
    assert [path.rsplit("/", 1)[1] for path in files.paths] == [f"{present[-1]}.jpg"] * 3
    assert files.targets.tolist() == [0, 1, 2]


def test_imagenet_may_lie_in_a_folder_of_its_own(folder, tmp_path):
    folder(*TRAIN, root=tmp_path / "imagenet")
    assert len(_load(tmp_path, name="imagenet")) == 4


def test_roots_that_hold_nothing(folder, tmp_path):
    needed = "give the data root, the folder that holds train and val (or test)"
    assert _error(None) == f"imagefolder is read from files; {needed}"
    assert _error(tmp_path / "nowhere") == (
        f"data root {tmp_path}/nowhere does not exist; give the folder that holds train and val (or test)"
    )
    (tmp_path / "file").write_text("")
    assert _error(tmp_path / "file").startswith(f"data root {tmp_path}/file is a file; give")
    assert _error(tmp_path, name="imagenet") == (
        f"folder {tmp_path}/train not found; put one folder per class there, or give another data root"
    )


def test_missing_test_split(folder):
    root = folder(*TRAIN)
    assert _error(root, "test") == (
        f"imagefolder has no test split: looked for the folders {root}/test and {root}/val; "
        "put images that are not in train into one of them, in the same class folders"
    )


def test_images_that_are_not_sorted_into_classes(folder):
    root = folder("train/0.jpg", "train/1.jpg")
    assert _error(root) == (
        f"{root}/train holds no class folders; put the images of each class into a folder of its own"
    )


def test_empty_class_folder(folder):
    root = folder(*TRAIN)
    (root / "train/bee").mkdir()
    (root / "train/bee/notes.txt").write_text("")
    assert _error(root) == (
        f"class folder {root}/train/bee holds no image (.jpg, .jpeg, .png, .bmp, .webp); "
        "put images into it or delete it"
    )


def test_splits_with_other_classes(folder):
    root = folder(*TRAIN, "val/ant/0.jpg", "val/cat/0.jpg")
    assert _error(root, "test") == (
        f"{root}/val has no folder for class dog of train (1 such classes); the splits must have the same class folders"
    )
    folder("val/dog/0.jpg", "val/eel/0.jpg")
    assert _error(root, "test") == (
        f"class folder {root}/val/eel has no counterpart in train (1 such folders); "
        "the splits must have the same class folders"
    )


def test_links_that_lead_in_a_circle_add_nothing(folder):
    root = folder(*TRAIN)
    (root / "train/cat/inner").symlink_to(root / "train/cat")
    (root / "train/wolf").symlink_to(root / "train/dog")  # a class of its own
    files = _load(root)
    assert len(files) == 5 and files.class_names == ("ant", "cat", "dog", "wolf")


def test_folder_that_cannot_be_opened(folder):
    root = folder(*TRAIN)
    (root / "train/loop").symlink_to(root / "train/loop")  # opening it fails for every user, root too
    assert _error(root).startswith(f"folder {root}/train/loop cannot be read (")
    (root / "train/loop").unlink()
    (root / "val").write_text("")
    assert _error(root, "test").startswith("imagefolder has no test split")


def test_targets_are_ready_for_training(folder):
    targets = _load(folder(*TRAIN)).targets
    assert targets.dtype == torch.int64 and targets.device.type == "cpu"
