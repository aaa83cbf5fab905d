"""Data of another range, type or number of classes than training needs are refused at the first batch, by every way in."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dat import models
from dat.methods.plain import Plain
from dat.methods.plain.method import PlainMethod
from dat.methods.task import Task
from dat_engine.data import Batch, DataError
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.stop import Stop
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from tests.engine.run.test_trainer import rows, trainer

SHAPE = (3, 8, 8)
TASK = Task(num_classes=5, image_shape=SHAPE, epsilon=8 / 255)


def batch() -> Batch:
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    return Batch(images=images, originals=images.flip(3), targets=torch.arange(6) % 5, indices=torch.arange(6))


def plain_step() -> TrainingStep:
    torch.manual_seed(0)
    model = models.build("resnet8", num_classes=5, width=4, branches=("base",))
    return TrainingStep(model, PlainMethod(Plain(), TASK), optimizer=SGDSettings(learning_rate=0.05))


def both(change):
    """The batch with both views of it changed."""
    good = batch()
    return replace(good, images=change(good.images), originals=change(good.originals))


def spoilt(images: torch.Tensor) -> torch.Tensor:
    images = images.clone()
    images[1, 2, 3, :2] = torch.tensor([torch.nan, torch.inf])
    return images


MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1), torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)
REFUSED = {
    "0..255": (both(lambda images: images * 255), r"images lie in \[0, 255\]; .* needs \[0, 1\].*divide them by 255"),
    "normalised": (both(lambda images: (images - MEAN) / STD), r"images lie in \[-1\.\d+, 2\.\d+\].*into the model's"),
    "-1..1": (both(lambda images: 2 * images - 1), r"images lie in \[-1, 1\].*into the model's first layer"),
    "overshot": (both(lambda images: images * 1.1 - 0.05), r"images lie in \[-0.05, 1.05\].*clamp\(0, 1\)"),
    "16 bits": (both(lambda images: images * 65535), r"lie in \[0, 6.554e\+04\].*divide them by the largest value"),
    "originals alone": (replace(batch(), originals=batch().originals * 255), r"originals lie in \[0, 255\]"),
    "bytes": (both(lambda images: (images * 255).byte()), r"images are torch\.uint8; .*images\.float\(\) / 255"),
    "not finite": (both(spoilt), "images hold 2 values that are not finite"),
    "no channel": (both(lambda images: images[:, 0]), r"shape \(6, 8, 8\); training needs \[B, C, H, W\]"),
    "grey": (both(lambda images: images[:, :1]), r"are \[B, 1, 8, 8\] and the model takes 3 channels"),
    "two sizes": (replace(batch(), originals=batch().originals[..., :6]), "in one size"),
    "labels from 1": (replace(batch(), targets=batch().targets + 1), r"run from 1 to 5; they must lie in 0\.\.4"),
    "no label": (replace(batch(), targets=batch().targets - 1), r"run from -1 to 3; they must lie in 0\.\.4"),
    "int32": (replace(batch(), targets=batch().targets.int()), r"torch\.int32 of shape \(6,\); .*int64 \[6\]"),
    "one-hot": (
        replace(batch(), targets=torch.eye(5).long()[batch().targets]),
        r"int64 of shape \(6, 5\).*argmax\(1\)",
    ),
    "soft sums": (replace(batch(), targets=torch.full((6, 5), 0.3)), r"rows that sum to 1\.5\.\.1\.5 .* sum to 1"),
    "soft classes": (
        replace(batch(), targets=torch.full((6, 4), 0.25)),
        r"shape \(6, 4\) for 6 images and a model of 5",
    ),
    "too few": (replace(batch(), targets=batch().targets[:5]), r"of shape \(5,\); .*int64 \[6\]"),
}


@pytest.fixture(params=REFUSED)
def refused(request):
    return REFUSED[request.param]


def test_a_step_refuses_it_before_anything_is_changed(refused):
    given, sentence = refused
    step = plain_step()
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    random_state = torch.get_rng_state()
    for _ in range(2):  # a first batch that was refused is not the first one seen
        with pytest.raises(DataError, match=sentence) as raised:
            step(given)
        assert "\n" not in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in step.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in step.model.modules())


def test_a_graph_refuses_it_before_it_is_captured(refused):
    given, sentence = refused
    captured = []
    execute = GraphedStep(plain_step(), capture=lambda function, step: captured.append(step) or function)
    for _ in range(2):
        with pytest.raises(DataError, match=sentence):
            execute(given)
    assert not captured
    execute(batch())
    assert len(captured) == 1


@pytest.mark.parametrize("way", ["step", "own function"])
def test_a_trainer_refuses_a_loaders_first_batch(tmp_path, way):
    executed = []
    options = {} if way == "step" else {"execute": executed.append}
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        ran = trainer(run, **options)
        healthy = ran.loader.epoch
        ran.loader.epoch = lambda *args, **kwargs: (
            replace(given, images=given.images * 255) for given in healthy(*args, **kwargs)
        )
        with pytest.raises(ValueError, match=r"images lie in \[0, 255\]"):
            ran.train(stop)
        assert not rows(run) if (run.path / "metrics.jsonl").exists() else True
        assert not run.checkpoints.step_paths() and not executed


def test_images_in_range_pass_and_are_looked_at_once(monkeypatch):
    looks = []
    monkeypatch.setattr("dat_engine.step.training_step.check_first_batch", lambda *given, **_: looks.append(given))
    step = plain_step()
    execute = GraphedStep(step)
    for _ in range(3):
        step(batch())
        execute(batch())
    assert len(looks) == 1


def test_soft_labels_pass_where_the_method_takes_them_alone():
    soft = replace(batch(), targets=torch.eye(5)[batch().targets])
    assert torch.equal(plain_step()(soft)["loss"], plain_step()(batch())["loss"])
    step = plain_step()
    step.method.takes_soft_labels = False
    with pytest.raises(
        DataError, match=r"this method needs one class number per image; .*use a method that takes soft labels"
    ):
        step(soft)


def test_the_look_changes_no_number():
    unlooked, looked = plain_step(), plain_step()
    unlooked._has_seen_a_batch = True
    for _ in range(2):
        assert torch.equal(unlooked(batch())["loss"], looked(batch())["loss"])
    for name, value in unlooked.model.state_dict().items():
        assert torch.equal(value, looked.model.state_dict()[name]), name


@pytest.mark.parametrize("change", [lambda images: images * (1 + 1e-6) - 1e-7, lambda images: images / 255])
def test_rounding_and_dark_images_are_no_mistake(change):
    assert plain_step()(both(change))["skipped"] == 0


def test_what_a_model_raises_for_reasons_of_its_own_is_passed_on():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 5, 8)

        def forward(self, images):
            raise RuntimeError("it is broken")

    step = TrainingStep(Broken(), PlainMethod(Plain(), TASK), optimizer=SGDSettings())
    with pytest.raises(RuntimeError, match="it is broken"):
        step(batch())
