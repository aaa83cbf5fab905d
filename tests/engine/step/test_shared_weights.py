"""The joint pass on the attack model's half-precision weights: the bits of autocast's own, also where weights move."""

import functools

import pytest
import torch

from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.model.precision import Precision
from dat_engine.step import shared_weights
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from tests.engine.step.prototypes import (
    CLASSES,
    SHAPE,
    AToP,
    PrototypeMethod,
    batch,
    classifier,
    purified_classifier,
)
from tests.engine.step.test_whole_or_not import trained

OPTIMIZER = SGDSettings(learning_rate=0.05)


class CrossEntropy(PrototypeMethod):
    def losses(self, joint):
        return {"loss": torch.nn.functional.cross_entropy(joint.logits[0], joint.targets)}


def cross_entropy(name: str, **options) -> TrainingStep:
    return TrainingStep(classifier(), CrossEntropy(), precision=Precision(name=name), **options)


def purifying(name: str, **options) -> TrainingStep:
    return TrainingStep(purified_classifier(), AToP(), precision=Precision(name=name), **options)


def dat(name: str, **options) -> TrainingStep:
    task = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=0.1)
    torch.manual_seed(1)
    method = DATMethod(DAT(steps=1, generator_update="alternating", generator_optimizer=OPTIMIZER), task)
    return TrainingStep(classifier("base", "mix"), method, precision=Precision(name=name), **options)


@pytest.fixture
def traced(monkeypatch):
    """torch.compile runs what Inductor is given operation by operation; its own rounding is another test's."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def renewals(monkeypatch):
    """How often the copies were brought up to date besides the attack model's own refreshes."""
    counted = []
    renew = shared_weights.renew
    monkeypatch.setattr(shared_weights, "renew", lambda *given: counted.append(1) or renew(*given))
    return counted


@pytest.mark.parametrize(
    ("create", "precision", "perturbation", "renewed"),
    [
        (
            cross_entropy,
            "fp16",
            AdversarialWeightPerturbation(0.05),
            2,
        ),  # where it looks for its direction, and after it has moved the weights
        (purifying, "bf16", None, 0),
        # at the weights that the classifier's step has left
        pytest.param(dat, "bf16", None, 1, marks=pytest.mark.slow),
    ],
    ids=["perturbed weights", "frozen classifier", "alternating"],
)
def test_same_bits_as_with_conversions_of_its_own(
    create, precision, perturbation, renewed, traced, renewals, monkeypatch
):
    options = {"optimizer": OPTIMIZER, "branching": "grouped", "compiled": True, "weight_perturbation": perturbation}
    shared = create(precision, **options)
    assert shared.attack_model.weight_copies
    metrics = [shared(batch(index)) for index in range(2)]
    assert len(renewals) == 2 * renewed
    monkeypatch.setattr(AttackModel, "weight_copies", {})
    own = create(precision, **options)
    assert [float(own(batch(index))["loss"]) for index in range(2)] == [float(each["loss"]) for each in metrics]
    expected = trained(own)
    assert not [name for name, value in trained(shared).items() if not torch.equal(value, expected[name])]


def test_gradients_are_the_parameters_kind_and_belong_to_nobody_else(device):
    model = classifier().to(device, memory_format=torch.channels_last)
    copies = {name: value.detach().bfloat16() for name, value in model.named_parameters() if not name.startswith("1.")}
    model[4].bias.requires_grad_(False)
    given = shared_weights.differentiable_copies(model, copies)
    assert not given["4.bias"].requires_grad and given["0.weight"].dtype == torch.bfloat16
    (given["0.weight"].square().sum() + given["4.weight"].sum()).backward()
    weight = model[0].weight
    assert weight.grad.dtype == torch.float32 and weight.grad.stride() == weight.stride()
    assert torch.equal(weight.grad, (2 * copies["0.weight"]).float())
    assert model[0].bias.grad is None  # nothing depended on it


def test_only_layers_that_are_called_are_shared():
    model = classifier()
    grouped = AttackModel(model, dtype=torch.bfloat16, branching="grouped")
    assert set(grouped.weight_copies) == {"0.weight", "0.bias", "4.weight", "4.bias"}
    assert not AttackModel(model, dtype=torch.bfloat16).weight_copies  # folded: other numbers
    torch.nn.utils.parametrizations.weight_norm(model[4])
    assert set(AttackModel(model, dtype=torch.bfloat16, branching="grouped").weight_copies) == {"0.weight", "0.bias"}
