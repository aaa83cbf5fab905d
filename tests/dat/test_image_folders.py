"""Recipes on image files, from the command: a user's own folder, Tiny-ImageNet's layout, a damaged file."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dat import models
from dat.cli import main
from dat.recipes import recipe
from dat_engine.attack.attack_model import AttackModel
from dat_engine.model.branches import branch_layout

SMALL = [
    *("--model.name", "resnet8", "--model.width", "4", "--data.image-size", "16", "--data.resize", "16"),
    *("--batch-size", "4", "--epochs", "1", "--device", "cpu", "--progress", "plain", "--precision.name", "fp32"),
    *("--evaluation.attacks", "natural,pgd20"),
]


def picture(path: Path, seed: int) -> None:
    pixels = numpy.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=numpy.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("cat", "dog", "emu")):
            for index in range(count):
                picture(tmp_path / "pictures" / split / name / f"{index}.jpg", seed=100 * label + index)
    return tmp_path / "pictures"


def train(folder: Path, run: Path, *flags: str) -> int:
    return main(["train", "imagefolder", "--data-root", str(folder), "--run-dir", str(run), *SMALL, *flags])


@pytest.mark.parametrize("method", ["dat", "pgd-at"])
@pytest.mark.parametrize("loader", ["torchvision", "dali"])
def test_a_folder_of_ones_own(folder, tmp_path, capsys, loader, method):
    if loader == "dali":
        pytest.importorskip("nvidia.dali", reason="the optional package nvidia-dali is not installed")
    flags = ["--method", method, "--data.loader", loader, "--data.workers", "1"]
    if method == "dat":
        flags += ["--dat.coarse-amplitude", "8"]
    assert train(folder, tmp_path / "run", *flags) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_images"] == 6 and summary["damaged_files"] == []
    capsys.readouterr()
    arguments = ["--data-root", str(folder), "--attacks", "natural", "--json", "--device", "cpu"]
    assert main(["evaluate", str(tmp_path / "run"), *arguments]) == 0
    percent = json.loads(capsys.readouterr().out)["accuracy"]["natural"]["percent"]
    assert percent == summary["accuracy"]["natural"]


def test_folder_fits_in_memory_and_is_made_resident(folder, tmp_path):
    assert train(folder, tmp_path / "run", "--data.crop", "padded", "--method", "plain") == 0


def test_a_damaged_file_is_fatal_or_skipped_by_choice(folder, tmp_path, capsys):
    damaged = folder / "train" / "dog" / "3.jpg"
    damaged.write_bytes(damaged.read_bytes()[:100])
    flags = ["--method", "plain", "--data.loader", "torchvision", "--data.workers", "0"]
    assert train(folder, tmp_path / "fatal", *flags) == 2
    assert str(damaged) in capsys.readouterr().err
    assert train(folder, tmp_path / "skip", *flags, "--data.on-damaged", "skip", "--epochs", "2") == 0
    spoken = capsys.readouterr()
    assert (spoken.out + spoken.err).count("3.jpg is damaged") == 1 and ".py:" not in spoken.out + spoken.err
    assert json.loads((tmp_path / "skip" / "summary.json").read_text())["damaged_files"] == [str(damaged)]


def test_missing_folder_and_other_classes_are_named(folder, tmp_path, capsys):
    assert train(tmp_path / "nowhere", tmp_path / "run", "--method", "plain") == 2
    assert "nowhere" in capsys.readouterr().err
    assert train(folder, tmp_path / "run", "--method", "plain", "--data.loader", "torchvision") == 0
    (folder / "train" / "emu").rename(folder / "train" / "fox")
    (folder / "val" / "emu").rename(folder / "val" / "fox")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--data-root", str(folder), "--device", "cpu"]) == 2
    assert "trained on other classes" in capsys.readouterr().err


def test_resnet50_goes_through_the_converter_and_the_frozen_view():
    model = models.build("resnet50", num_classes=7, width=4).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    attack_model = AttackModel(model, (("base",), ("mix",)))
    for branch in ("base", "mix"):
        with branch_layout(model, (branch,)):
            torch.testing.assert_close(attack_model.logits(images, (branch,)), model(images), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="takes images of 3 channels; got 1"):
        models.build("resnet50", num_classes=7, in_channels=1)


def test_recipes_for_large_images_use_the_coarse_generator():
    assert recipe("imagenet-resnet50").settings.coarse_amplitude == 32
    assert recipe("imagenet-resnet50", "pgd-at").model.name == "resnet50"
    assert recipe("tinyimagenet-resnet18").schedule.milestones == (75, 80)
