"""Every augmentation under the methods that it is to go with, as the command line and `dat.Trainer` reach it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dat.cli import main
from dat.cli.train_flags import parse_train_flags
from dat.methods import METHODS, MethodEntry, method_entry
from dat.methods.dat import DAT
from dat.methods.dat.method import mixed_augmentation
from dat.methods.task import Task
from dat.recipes.by_keyword import recipe
from dat.training.build import build_method
from dat.training.checks import check_without_data
from dat.training.trainer import Trainer
from dat.training.views import augmentation, view_augmentations
from dat_engine.data import AUGMENTATIONS, IDBH, Augmentation, AutoAugment, CutMix, ImageArrays, open_loader
from dat_engine.data_kinds import AugmentationName
from dat_engine.errors import UserError
from dat_engine.model.branches import convert_batchnorm
from dat_engine.step.first_batch import check_first_batch
from dat_engine.step.method import Examples, Method
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep

NAMES = list(AUGMENTATIONS)
CPU = torch.device("cpu")
BRIEF = [
    *(
        "--batch-size",
        "16",
        "--limit-train",
        "64",
        "--model.width",
        "4",
        "--data.validation",
        "0",
        "--progress",
        "silent",
    ),
    *("--evaluation.attacks", "natural", "--evaluation.limit", "10"),
]


class NeedsClasses(Method):
    """One extra view, by AutoAugment; class numbers alone."""

    extra_views = 1
    extra_augmentation = "autoaugment"

    def __init__(self, settings, task):
        pass

    def examples(self, attack_model, batch, noise, progress):
        return Examples(groups=(batch.images,))

    def losses(self, joint):
        return {"loss": nn.functional.cross_entropy(joint.logits[0], joint.targets)}


@pytest.fixture
def needs_classes(monkeypatch):
    entry = MethodEntry(implementation=NeedsClasses, settings=METHODS["plain"].settings, summary="for a test")
    monkeypatch.setitem(METHODS, "needs-classes", entry)
    return "needs-classes"


def arrays(count=32, channels=3):
    generator = torch.Generator().manual_seed(0)
    return ImageArrays(
        images=torch.randint(0, 256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8),
        targets=torch.arange(count) % 4,
        class_names=tuple("abcd"),
    )


def network(*branches):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
    )
    convert_batchnorm(model, branches)
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["pgd-at", "trades", "dat"])
def test_a_step_trains_on_every_augmentation(method, name):
    chosen = recipe("cifar10-resnet18", method, **{"data.augmentation": name, f"{method}.steps": 1})
    task = Task(num_classes=4, image_shape=(3, 8, 8), epsilon=8 / 255, augmentation=augmentation(chosen))
    entry = method_entry(method)
    created = entry.create(chosen.settings, task)
    first, extra = view_augmentations(chosen, created, (3, 8, 8))
    loader = open_loader(
        "resident", arrays(), batch_size=8, augmentation=first, extra_augmentation=extra, seed=0, device="cpu"
    )
    batch = next(loader.epoch(0))
    assert batch.targets.is_floating_point() == (name == "cutmix")
    model = network(*entry.branches(chosen.settings))
    check_first_batch(batch, model, takes_soft_labels=created.takes_soft_labels)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step = TrainingStep(model, created, optimizer=SGDSettings(), seed=1)
    metrics = step(batch)
    assert torch.isfinite(metrics["loss"])
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("method", ["pgd-at", "trades", "dat"])
def test_mixed_labels_reach_attack_and_loss(method):
    """A step on CutMix's soft labels is not a step on their most probable classes."""
    losses = []
    for hard in (False, True):
        entry = method_entry(method)
        task = Task(num_classes=4, image_shape=(3, 8, 8), epsilon=8 / 255)
        torch.manual_seed(0)
        step = TrainingStep(
            network(*entry.branches(entry.settings)),
            entry.create(entry.settings, task),
            optimizer=SGDSettings(),
            seed=1,
        )
        loader = open_loader(
            "resident",
            arrays(),
            batch_size=8,
            augmentation=Augmentation(padding=1, flip=True, then=CutMix()),
            seed=0,
            device="cpu",
        )
        for batch in loader.epoch(0):
            targets = batch.targets.argmax(dim=1) if hard else batch.targets
            fields = {name: getattr(batch, name) for name in ("images", "originals", "indices", "extra_views")}
            losses.append(step(type(batch)(targets=targets, **fields))["loss"])
    soft, hard = torch.stack(losses).chunk(2)
    assert torch.isfinite(torch.stack(losses)).all() and not torch.isclose(soft, hard, rtol=1e-4).any()


def test_a_run_by_the_command_line_resumes_bit_for_bit(tmp_path):
    words = ["train", "digits-resnet", "--method", "dat", *BRIEF, "--data.augmentation", "cutmix", "--dat.steps", "1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*words, "--max-steps", "3", "--run-dir", str(whole)]) == 0
    assert main([*words, "--max-steps", "2", "--run-dir", str(parts)]) == 0
    assert json.loads((parts / "config.json").read_text())["recipe"]["data"]["augmentation"] == "cutmix"
    assert main(["train", "--resume", "--max-steps", "3", "--run-dir", str(parts)]) == 0
    one, other = (load_file(run / "checkpoints" / "step-00000003.safetensors") for run in (whole, parts))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.augmentation", "cutmix", "--batch-size", "1"], "use a batch of at least 2, not 1"),
        (
            ["--method", "needs-classes", "--data.augmentation", "cutmix"],
            "cutmix mixes labels, and needs-classes needs one",
        ),
        (
            ["--method", "mart", "--data.augmentation", "cutmix"],
            "cutmix mixes labels, and mart needs one class for each",
        ),
        (["--data.augmentation", "mixup"], "mixup"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_one_sentence_and_nothing_is_written(words, sentence, needs_classes, tmp_path, capsys):
    method = [] if "--method" in words else ["--method", "pgd-at"]
    assert main(["train", "digits-resnet", *method, *BRIEF, *words, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_resuming_with_another_augmentation_is_refused(tmp_path, capsys):
    words = [
        "train",
        "digits-resnet",
        "--method",
        "plain",
        *BRIEF,
        "--max-steps",
        "1",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    assert main([*words[:1], "--resume", *words[-2:], "--data.augmentation", "cutout"]) == 2
    assert "--data.augmentation was standard and cannot change in a resumed run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.augmentation", "none"], Augmentation(padding=0, flip=False)),
        (["--data.augmentation", "none", "--dat.mix-padding", "2"], Augmentation(padding=2, flip=False)),
        (["--data.augmentation", "cutout"], Augmentation(padding=3, flip=True)),
        (["--data.augmentation", "autoaugment"], Augmentation(padding=3, flip=True)),
        (["--data.augmentation", "idbh"], Augmentation(padding=3, flip=True)),
        (["--data.augmentation", "cutmix", "--data.no-flip"], Augmentation(padding=3, flip=False)),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_dats_mixed_image_keeps_the_published_crop_and_flip(words, expected):
    chosen, _ = parse_train_flags(["cifar10-resnet18", *words])
    assert mixed_augmentation(chosen.settings, augmentation(chosen)) == expected


def test_without_a_published_crop_the_mixed_image_is_cropped_as_the_data_set_is_under_idbh_too():
    chosen = recipe("digits-resnet", data={"augmentation": "idbh"})
    assert mixed_augmentation(DAT(), augmentation(chosen)) == Augmentation(padding=1, flip=False)


def test_a_recipe_without_the_field_is_the_standard_one():
    assert recipe("cifar10-resnet18").data.augmentation == "standard"
    assert AugmentationName.__args__ == tuple(AUGMENTATIONS)
    assert recipe("cifar10-resnet18", **{"data.augmentation": "none"}).settings.mix_padding is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cutmix"])
def test_extra_views_have_the_augmentation_that_their_method_names(name, needs_classes, tmp_path):
    chosen = recipe("digits-resnet", needs_classes, **{"data.augmentation": name})
    check_without_data(chosen, tmp_path, CPU)
    first, extra = view_augmentations(chosen, build_method(chosen, arrays(channels=1)), (1, 16, 16))
    assert isinstance(extra.then, AutoAugment) and not extra.flip
    assert isinstance(first.then, AutoAugment) == (name == "autoaugment")
    assert extra.padding == (0 if name == "none" else 1)


def test_a_network_and_images_of_ones_own_are_augmented(needs_classes):
    data = (arrays().images, arrays().targets)
    settings = {"epsilon": 8 / 255, "epochs": 1, "batch_size": 8, "progress": "silent", "max_steps": 1, "device": "cpu"}
    for then in (CutMix(), IDBH()):
        own = Augmentation(padding=0, flip=True, then=then)
        trainer = Trainer(network("base"), data, method="pgd-at", augmentation=own, **settings)
        batch = next(trainer.loader.epoch(0))
        assert not torch.equal(batch.images, batch.originals) or isinstance(then, CutMix)
        assert batch.targets.is_floating_point() == isinstance(then, CutMix)
        trainer.fit()
    views = next(Trainer(network("base"), data, method=needs_classes, **settings).loader.epoch(0))
    assert torch.equal(views.images, views.originals) and not torch.equal(views.extra_views[0], views.images)
    with pytest.raises(UserError, match="cutmix mixes labels, and needs-classes needs one class for each image"):
        Trainer(
            network("base"),
            data,
            method=needs_classes,
            augmentation=Augmentation(padding=0, flip=False, then=CutMix()),
            **settings,
        )
