"""Crop and flip of DAT's mixed image: the data set's own, unless they are asked for."""

import pytest
import torch

from dat.cli.train_flags import parse_train_flags
from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod, mixed_augmentation
from dat.methods.task import Task
from dat.recipes import RECIPES, recipe
from dat.training.build import build_method
from dat.training.data import load_training_data
from dat.training.views import augmentation
from dat_engine.data import Augmentation, Batch, RandomResizedCrop

LETTERS = Augmentation(padding=2, flip=False)


def of_command(*words: str) -> Augmentation:
    """What `dat train` with these words does to the mixed image."""
    chosen, _ = parse_train_flags(words)
    return mixed_augmentation(chosen.settings, augmentation(chosen))


def test_the_mixed_image_is_augmented_as_the_data_set_is():
    assert mixed_augmentation(DAT(), LETTERS) == LETTERS
    assert mixed_augmentation(DAT(mix_flip=True), LETTERS) == Augmentation(padding=2, flip=True)
    assert mixed_augmentation(DAT(mix_padding=0), LETTERS) == Augmentation(padding=0, flip=False)
    for flip in (True, False):
        own = RandomResizedCrop(flip=flip)
        assert mixed_augmentation(DAT(), own) == Augmentation(padding=0, flip=flip)


def test_a_method_that_is_told_of_no_augmentation_does_none():
    task = Task(num_classes=3, image_shape=(3, 8, 8), epsilon=0.1)
    images = torch.rand(64, 3, 8, 8)
    batch = Batch(images=images, originals=images, targets=torch.arange(64) % 3, indices=torch.arange(64))
    noise = DATMethod(DAT(), task).draw_noise(batch, torch.Generator().manual_seed(0))
    assert not noise["flip"].any() and not noise["crop_offsets"].any()


def test_digits_are_not_mirrored(tmp_path):
    chosen = recipe("digits-resnet")
    data = load_training_data(chosen, tmp_path, torch.device("cpu"))
    method = build_method(chosen, data.train)
    generator = torch.Generator().manual_seed(0)
    draws = [method.draw_noise(batch, generator) for batch, _ in zip(data.loader.epoch(0), range(8), strict=False)]
    assert not torch.cat([noise["flip"] for noise in draws]).any()
    assert torch.cat([noise["crop_offsets"] for noise in draws]).abs().max() == 1


@pytest.mark.parametrize(
    "name", [name for name in RECIPES if name.startswith(("cifar", "tinyimagenet"))], ids=lambda name: name
)
def test_the_papers_data_sets_keep_the_published_crop(name):
    assert of_command(name) == Augmentation(padding=3, flip=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.no-flip"], Augmentation(padding=3, flip=False)),
        (["--data.no-flip", "--dat.mix-flip", "True"], Augmentation(padding=3, flip=True)),
        (["--dat.mix-flip", "False"], Augmentation(padding=3, flip=False)),
        (["--data.padding", "0"], Augmentation(padding=0, flip=True)),
        (["--data.padding", "2"], Augmentation(padding=2, flip=True)),
        (["--data.padding", "0", "--dat.mix-padding", "3"], Augmentation(padding=3, flip=True)),
        (["--data.padding=0", "--dat.mix_padding=3"], Augmentation(padding=3, flip=True)),
        (["--data.crop", "resized"], Augmentation(padding=0, flip=True)),
        (["--data.crop", "resized", "--dat.mix-padding", "5"], Augmentation(padding=5, flip=True)),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_flags_of_the_data_reach_the_mixed_image(words, expected):
    assert of_command("cifar10-resnet18", *words) == expected


def test_a_negative_padding_is_refused():
    with pytest.raises(ValueError, match="mix_padding must not be negative; got -1"):
        DAT(mix_padding=-1)
