"""Adversarial weight perturbation around any method: where it moves weights to, and that nothing of it is left in them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat_engine.errors import UserError
from dat_engine.model.branches import batchnorm_layers
from dat_engine.model.precision import Precision
from dat_engine.profile.flops import count_flops
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.players import Player
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import EMASettings
from tests.engine.step.prototypes import (
    CLASSES,
    MART,
    SHAPE,
    AToP,
    PrototypeMethod,
    batch,
    classifier,
    purified_classifier,
)
from tests.engine.step.test_whole_or_not import trained
from tests.oracle.weights import perturbed_weights

OPTIMIZER = SGDSettings(learning_rate=0.05)


class Watched(AdversarialWeightPerturbation):
    """Keeps the weights at which the classifier's gradient was taken, and the losses before and after they were moved."""

    def around(self, passes, examples, batch):
        inner = super().around(passes, examples, batch)

        class Block:
            def __enter__(block):
                with passes.keeping_statistics(), torch.no_grad():
                    self.loss_before = float(passes.joint_pass(examples.detached(), batch).terms["loss"])
                self.before = [weight.detach().clone() for weight in passes.own_seats[0].parameters]
                inner.__enter__()
                with passes.keeping_statistics(), torch.no_grad():
                    self.loss_at = float(passes.joint_pass(examples.detached(), batch).terms["loss"])
                self.moved = [weight.detach().clone() for weight in passes.own_seats[0].parameters]

            def __exit__(block, *reason):
                self.gradients = [weight.grad.clone() for weight in passes.own_seats[0].parameters]
                self.restored = [weight.detach().clone() for weight in passes.own_seats[0].parameters]
                return inner.__exit__(*reason)

        return Block()


def dat_step(update="joint", perturbation=None, device="cpu", **options) -> TrainingStep:
    model = classifier("base", "mix").to(device)
    task = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=0.1)
    torch.manual_seed(1)
    method = DATMethod(DAT(steps=1, generator_update=update, generator_optimizer=OPTIMIZER), task)
    return TrainingStep(model, method, optimizer=OPTIMIZER, seed=2, weight_perturbation=perturbation, **options)


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_after_restoring_the_weights_are_those_before_plus_the_optimizers_step(update):
    """To the last bit of float32, momentum and weight decay included, which work on the restored weights."""
    perturbation = Watched(gamma=0.05)
    step = dat_step(update, perturbation)
    twins, optimizer = [], None
    for index in range(3):
        counts = {layer: int(layer.num_batches_tracked) for _, _, layer in batchnorm_layers(step.model)}
        assert step(batch(index))["skipped"] == 0
        if optimizer is None:
            twins = [weight.clone().requires_grad_() for weight in perturbation.before]
            optimizer = torch.optim.SGD(twins, lr=0.05, momentum=0.9, weight_decay=OPTIMIZER.weight_decay, fused=True)
        for twin, before, gradient in zip(twins, perturbation.before, perturbation.gradients, strict=True):
            assert torch.equal(twin, before)
            twin.grad = gradient
        optimizer.step()
        for twin, weight in zip(twins, step.own_seats[0].parameters, strict=True):
            assert torch.equal(twin, weight)
        for before, moved in zip(perturbation.before, perturbation.moved, strict=True):
            share = float((moved - before).norm() / before.norm().clamp_min(1e-12))
            assert share == pytest.approx(0.05 if before.ndim > 1 else 0.0, rel=1e-3)
        assert perturbation.loss_at > perturbation.loss_before
        # two groups go through each branch: one training pass leaves a trace, those that look for the direction none
        passes = 1 if update == "joint" else 2  # the second is the other player's, as without perturbation
        for layer, count in counts.items():
            assert int(layer.num_batches_tracked) == count + 2 * passes


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_a_warm_up_in_epochs_is_followed_by_a_captured_step(update, device):
    """Until it ends the run is the one without perturbation, bit for bit; the graph is the same one after it."""
    step = dat_step(update, AdversarialWeightPerturbation(0.05, start=2), device)
    plain = dat_step(update, device=device)
    # on a GPU the last bits may differ, and with them the sign of a gradient near zero
    same = torch.equal if device.type == "cpu" else partial(torch.allclose, rtol=1e-3, atol=1e-4)
    graphed = GraphedStep(step)
    for index, epoch in enumerate([0.0, 1.9, 2.0]):
        for one in (step, plain):
            one.progress.set(epoch=epoch, fraction=epoch / 10)
        given = batch(index, device=device)
        graphed(given)
        plain(given)
        expected = trained(plain)
        differing = [name for name, value in trained(step).items() if not same(value, expected[name])]
        assert bool(differing) == (epoch >= 2), differing


def test_a_perturbed_step_that_is_bad_leaves_nothing_behind():
    step = dat_step("alternating", AdversarialWeightPerturbation(0.05))
    step(batch(0))
    before = trained(step)
    hook = step.own_seats[0].parameters[0].register_hook(lambda gradient: gradient * torch.nan)
    assert step(batch(1))["skipped"] == 1
    hook.remove()
    after = trained(step)
    assert not [name for name in before if not torch.equal(before[name], after[name])]


def test_a_method_may_bring_its_own():
    class PerturbedMART(MART):
        weight_perturbation = Watched(gamma=0.02)

    step = TrainingStep(classifier(), PerturbedMART(), optimizer=OPTIMIZER)
    step(batch(0))
    assert PerturbedMART.weight_perturbation.loss_at > PerturbedMART.weight_perturbation.loss_before


def test_what_is_frozen_is_not_perturbed():
    perturbation = Watched(gamma=0.05)
    model = purified_classifier()
    step = TrainingStep(model, AToP(), optimizer=OPTIMIZER, weight_perturbation=perturbation)
    before = [weight.clone() for weight in model[1].parameters()]
    step(batch(0))
    assert len(perturbation.moved) == len(list(model[0].parameters()))
    assert all(torch.equal(old, new) for old, new in zip(before, model[1].parameters(), strict=True))


class OnTheImages(PrototypeMethod):
    """Cross entropy on the images themselves: what is differentiated can be written down in a line."""

    attack_layouts = ()

    def attacked(self, attack_model, batch, noise):
        return batch.images


def test_weights_are_moved_to_where_the_papers_proxy_says():
    perturbation = Watched(gamma=0.005)
    model = classifier().double()
    step = TrainingStep(
        model, OnTheImages(), optimizer=OPTIMIZER, precision=Precision(name="fp64"), weight_perturbation=perturbation
    )
    for index in range(2):  # at the second step the run's optimizer has momentum, which the proxy's has not
        given = batch(index)
        doubled = type(given)(
            images=given.images.double(),
            originals=given.originals.double(),
            targets=given.targets,
            indices=given.indices,
        )
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        twin = classifier().double().train()

        def loss(weights, twin=twin, doubled=doubled):
            return functional.cross_entropy(functional_call(twin, dict(weights), (doubled.images,)), doubled.targets)

        expected = perturbed_weights(before, loss, gamma=0.005, learning_rate=0.05)
        step(doubled)
        assert any(not torch.equal(expected[name], before[name]) for name in before)
        for (name, weight), moved in zip(before.items(), perturbation.moved, strict=True):
            torch.testing.assert_close(moved, expected[name], rtol=1e-12, atol=1e-13)
            assert torch.equal(moved, weight) == (weight.ndim < 2)


def test_a_gradient_of_zero_moves_nothing_and_no_weight_becomes_nan():
    class Constant(OnTheImages):
        def losses(self, joint):
            return {"loss": 0.0 * joint.logits[0].sum()}

    perturbation = Watched(gamma=0.05)
    step = TrainingStep(classifier(), Constant(), optimizer=OPTIMIZER, weight_perturbation=perturbation)
    assert step(batch(0))["skipped"] == 0
    assert all(torch.equal(one, other) for one, other in zip(perturbation.before, perturbation.moved, strict=True))


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_a_proxy_gradient_that_is_not_finite_changes_nothing(update):
    step = dat_step(update, AdversarialWeightPerturbation(0.05))
    step(batch(0))
    before, calls = trained(step), []

    def first_call_only(gradient):
        calls.append(gradient)
        return gradient * torch.inf if len(calls) == 1 else gradient

    hook = step.own_seats[0].parameters[0].register_hook(first_call_only)
    assert step(batch(1))["skipped"] == 1
    hook.remove()
    after = trained(step)
    assert len(calls) == 2 and not [name for name in before if not torch.equal(before[name], after[name])]
    assert step(batch(2))["skipped"] == 0


@pytest.mark.parametrize(("update", "precision"), [("joint", "fp16"), ("alternating", "bf16")])
def test_perturbed_steps_count_in_low_precision(update, precision):
    """The direction does not depend on fp16's loss scale."""
    moved = []
    for scale in (2.0**8, 2.0**10):
        perturbation = Watched(gamma=0.05)
        step = dat_step(update, perturbation, precision=Precision(name=precision))
        step.guard._scale.fill_(scale if precision == "fp16" else 1.0)
        assert step(batch(0))["skipped"] == 0
        moved.append(perturbation.moved)
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_a_graphed_perturbed_step_is_the_eager_one_bit_for_bit():
    eager, graphed = (dat_step("joint", AdversarialWeightPerturbation(0.05, start=0.5)) for _ in range(2))
    replay = GraphedStep(graphed)
    for index in range(4):
        for each in (eager, graphed):
            each.progress.set(epoch=index / 4, fraction=index / 8)
        eager(batch(index))
        replay(batch(index))
    expected = trained(eager)
    assert not [name for name, value in trained(graphed).items() if not torch.equal(value, expected[name])]


class Frozen(PrototypeMethod):
    """Trains a network beside a classifier that stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Linear(2, 2)

    def players(self, model):
        return (Player(name="model", network=model, frozen=True), Player(name="beside", network=self.beside))


@pytest.mark.parametrize(
    "options", [{"weight_perturbation": AdversarialWeightPerturbation(0.01)}, {"ema": EMASettings(decay=0.9)}]
)
def test_a_frozen_classifier_is_refused_before_a_step(options):
    TrainingStep(classifier(), Frozen(), optimizer=OPTIMIZER, ema=EMASettings())
    with pytest.raises(
        UserError, match="the whole classifier is frozen, so there are no weights to perturb or to average"
    ):
        TrainingStep(classifier(), Frozen(), optimizer=OPTIMIZER, **options)


def test_a_classifier_that_trains_no_matrix_is_refused_before_a_step():
    model = classifier()
    for weight in model.parameters():
        weight.requires_grad_(weight.ndim < 2)
    perturbation = AdversarialWeightPerturbation(0.01)
    with pytest.raises(UserError, match="weights with more than one dimension, and the classifier trains none"):
        TrainingStep(model, OnTheImages(), optimizer=OPTIMIZER, weight_perturbation=perturbation)


def test_it_costs_one_forward_and_backward_of_the_joint_pass():
    steps = [
        TrainingStep(classifier(), MART(), optimizer=OPTIMIZER, weight_perturbation=perturbation)
        for perturbation in (None, AdversarialWeightPerturbation(0.01))
    ]
    plain, perturbed = (count_flops(partial(step, batch(0))) for step in steps)
    step = steps[0]
    examples = step.method.examples(
        step.attack_model, batch(0), step.method.draw_noise(batch(0), step.generator), step.progress
    )

    def joint_pass():
        step.backward(step.joint_pass(examples, batch(0)).terms, step.own_seats)

    assert perturbed - plain == count_flops(joint_pass) > 0
