"""Methods from elsewhere, made known by `register`: what a recipe, the loader and the command line do for them."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from dat.cli import main
from dat.evaluation import evaluate
from dat.methods import METHODS, MethodEntry, method_entry, register
from dat.recipes import recipe
from dat.training.build import build_model, build_step
from dat.training.data import load_test_data, load_training_data
from dat.training.trained import load_trained
from dat_engine.errors import UserError
from dat_engine.run.checkpoint import load
from dat_engine.step.evaluated import evaluated_weights
from dat_engine.step.method import Examples, Method
from dat_engine.step.players import Player

TINY = [
    *("--limit-train", "64", "--batch-size", "16", "--model.width", "4", "--data.validation", "20", "--device", "cpu"),
    *("--evaluation.attacks", "natural,pgd20", "--evaluation.limit", "20", "--progress", "silent"),
]


@dataclass(frozen=True)
class Settings:
    """Settings of the methods of this page."""

    views: int = 2


class MeanOfViews(Method):
    """Cross entropy on the mean image of all views."""

    def __init__(self, settings, task) -> None:
        self.extra_views = settings.views

    def examples(self, attack_model, batch, noise, progress):
        return Examples(groups=(torch.stack([batch.images, *batch.extra_views]).mean(dim=0),))

    def losses(self, joint):
        return {"loss": nn.functional.cross_entropy(joint.logits[0], joint.targets)}


class Purified(Method):
    """A convolution before the classifier is trained, the classifier is left as it is."""

    def __init__(self, settings, task) -> None:
        pass

    @classmethod
    def network(cls, settings, classifier):
        return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), classifier)

    def players(self, model):
        return (Player(name="purifier", network=model[0]), Player(name="classifier", network=model[1], frozen=True))

    def examples(self, attack_model, batch, noise, progress):
        return Examples(groups=(batch.images,))

    def losses(self, joint):
        return {"loss": nn.functional.cross_entropy(joint.logits[0], joint.targets)}


@pytest.fixture
def registered():
    before = dict(METHODS)
    register("mean-of-views", MethodEntry(implementation=MeanOfViews, settings=Settings(), summary="mean of views"))
    register(
        "purified", MethodEntry(implementation=Purified, settings=Settings(), summary="purifier", select_by="natural")
    )
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("views", "loader"), [(2, "auto"), (1, "torchvision")])
def test_the_loader_is_opened_with_the_views_that_the_method_needs(tmp_path, views, loader):
    chosen = recipe("digits-resnet", "mean-of-views")
    chosen = replace(
        chosen, settings=Settings(views=views), limit_train=64, data=replace(chosen.data, loader=loader, workers=0)
    )
    chosen = replace(chosen, model=replace(chosen.model, width=4), batch_size=16)
    data = load_training_data(chosen, tmp_path, torch.device("cpu"))
    batch = next(iter(data.loader.epoch(0)))
    assert batch.extra_views.shape == (views, 16, 1, 16, 16)
    assert not torch.equal(batch.extra_views[0], batch.images)
    step = build_step(chosen, build_model(chosen, 10, (1, 16, 16)), data.method)
    assert step(batch)["skipped"] == 0


@pytest.mark.usefixtures("registered")
def test_a_method_may_put_a_network_before_the_classifier(tmp_path):
    """From the command line to the checkpoint: the purifier has moved, the classifier is bit for bit the one that was built."""
    run = tmp_path / "run"
    flags = [*TINY, "--max-steps", "4", "--run-dir", str(run)]
    assert main(["train", "digits-resnet", "--method", "purified", *flags]) == 0
    trained = load_trained(run, torch.device("cpu"))
    fresh = build_model(trained.recipe, 10, (1, 16, 16))
    assert isinstance(trained.model, nn.Sequential)
    (checkpoint,) = list((run / "checkpoints").glob("step-*"))[:1]
    weights = evaluated_weights(load(checkpoint)["training"])
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, weights[name]) == name.startswith("1."), name
    accuracy = evaluate(trained.model, load_test_data(trained.recipe, tmp_path, 20), ("natural", "pgd20"), epsilon=0.05)
    assert accuracy["pgd20"] <= accuracy["natural"]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dat", Settings(), "there is a method called dat already"),
        ("mean-of-views", Settings(), "there is a method called mean-of-views already"),
        ("My_AT", Settings(), "'My_AT' cannot name a method; use lower-case letters, digits and single hyphens"),
        ("own", Settings, "give an object of a frozen dataclass"),
        ("own", {"views": 2}, "give an object of a frozen dataclass"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        register(name, MethodEntry(implementation=MeanOfViews, settings=settings, summary=""))


def test_a_method_that_nobody_registered_is_unknown():
    with pytest.raises(UserError, match="mean-of-views"):
        method_entry("mean-of-views")
