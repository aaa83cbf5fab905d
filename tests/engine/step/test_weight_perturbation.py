"""Adversarial weight perturbation around any method: forty lines in `prototypes`, nothing of it left in the weights."""

import pytest
import torch

from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat_engine.model.branches import batchnorm_layers
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from tests.engine.step.prototypes import AWP, CLASSES, MART, SHAPE, AToP, batch, classifier, purified_classifier
from tests.engine.step.test_whole_or_not import trained

OPTIMIZER = SGDSettings(learning_rate=0.05)


class Watched(AWP):
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


def dat_step(update="joint", perturbation=None) -> TrainingStep:
    model = classifier("base", "mix")
    task = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=0.1)
    torch.manual_seed(1)
    method = DATMethod(DAT(steps=1, generator_update=update, generator_optimizer=OPTIMIZER), task)
    return TrainingStep(model, method, optimizer=OPTIMIZER, seed=2, weight_perturbation=perturbation)


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
def test_a_warm_up_in_epochs_is_followed_by_a_captured_step(update):
    """Until it ends the run is the one without perturbation, bit for bit; the graph is the same one after it."""
    step, plain = dat_step(update, AWP(gamma=0.05, warmup_epochs=2)), dat_step(update)
    graphed = GraphedStep(step)
    for index, epoch in enumerate([0.0, 1.9, 2.0]):
        for one in (step, plain):
            one.progress.set(epoch=epoch, fraction=epoch / 10)
        graphed(batch(index))
        plain(batch(index))
        expected = trained(plain)
        differing = [name for name, value in trained(step).items() if not torch.equal(value, expected[name])]
        assert bool(differing) == (epoch >= 2), differing


def test_a_perturbed_step_that_is_bad_leaves_nothing_behind():
    step = dat_step("alternating", AWP(gamma=0.05))
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
