"""Methods that are not here yet, in small: what they ask of the engine is what it does (tests/engine/step/prototypes.py)."""

import copy
import inspect
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional

import dat_engine.attack.pgd as pgd
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, draw_start, image_gradient
from dat_engine.data import DataError
from dat_engine.errors import UserError
from dat_engine.model.as_found import in_eval_mode
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.graph import GraphedStep
from dat_engine.step.method import Examples
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.players import Player
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import EMASettings
from tests.engine.step.prototypes import (
    CLASSES,
    DAJAT,
    EPSILON,
    LASAT,
    MART,
    SHAPE,
    AToP,
    PrototypeMethod,
    batch,
    classifier,
    purified_classifier,
)

OPTIMIZER = SGDSettings(learning_rate=0.05)
PLAIN_SGD = SGDSettings(learning_rate=0.05, momentum=0.0, weight_decay=0.0)


def training_step(method, model=None, **options) -> TrainingStep:
    options.setdefault("optimizer", OPTIMIZER)
    return TrainingStep(classifier() if model is None else model, method, seed=4, **options)


def watched(method, seen: list) -> None:
    """Keep every joint pass that `method` is shown."""
    losses = method.losses

    def record(joint):
        seen.append(joint)
        return losses(joint)

    method.losses = record


# MART: a loss, nothing else


def test_mart_trains_on_its_own_loss():
    method, seen = MART(), []
    watched(method, seen)
    step = training_step(method)
    losses = [step(batch(index)) for index in range(15)]
    joint, metrics = seen[0], losses[0]
    expected = 0.0
    for clean, adversarial, target in zip(*joint.logits, joint.targets.tolist(), strict=True):
        p, q = clean.double().softmax(0), adversarial.double().softmax(0)
        others = [q[k] for k in range(CLASSES) if k != target]
        expected += -q[target].log() - (1 - max(others)).log() + 5 * (p * (p / q).log()).sum() * (1 - p[target])
    assert float(metrics["loss"]) == pytest.approx(float(expected.detach()) / 8, rel=1e-5)
    assert torch.equal(joint.examples[0], batch(0).images)
    assert losses[-1]["boosted"] < 0.7 * losses[0]["boosted"]
    assert losses[-1]["accuracy"] > losses[0]["accuracy"]


# DAJAT: further views, an epsilon that follows the progress


def test_dajat_attacks_every_view_with_the_present_epsilon():
    method, seen = DAJAT(), []
    watched(method, seen)
    step = training_step(method, classifier("base", "aug"))
    given = batch(0, extra_views=2)
    for fraction in (0.0, 0.5, 1.0):
        step.progress.set(epoch=10 * fraction, fraction=fraction)
        metrics = step(given)
        radius = EPSILON * (0.25 + 0.75 * fraction)
        assert float(metrics["radius"]) == pytest.approx(radius)
        for adversarial, view in zip(seen[-1].examples, (given.images, *given.extra_views), strict=True):
            assert float((adversarial - view).abs().max()) == pytest.approx(radius, rel=1e-4)
    base, augmented = (step.model[1][branch] for branch in ("base", "aug"))
    assert (int(base.num_batches_tracked), int(augmented.num_batches_tracked)) == (3, 6)
    js, probabilities = 0.0, [logits.double().softmax(1) for logits in seen[-1].logits]
    for p in probabilities:
        js += float(functional.kl_div((sum(probabilities) / 3).log(), p, reduction="batchmean")) / 3
    assert float(metrics["js"]) == pytest.approx(js, rel=1e-4)


def test_dajat_captured_follows_the_ramp_as_eager_does(device):
    """The graph reads views and progress from tensors: nothing of them is fixed at capture."""
    eager, step = (training_step(DAJAT(), classifier("base", "aug").to(device)) for _ in range(2))
    graphed = GraphedStep(step)
    for index in range(4):
        given = batch(index, extra_views=2, device=device)
        for one in (eager, step):
            one.progress.set(epoch=index, fraction=index / 3)
        ours, theirs = graphed(given), eager(given)
        one, other = ({name: float(value) for name, value in each.items()} for each in (ours, theirs))
        # on a GPU the last bits may differ, and with them the sign of a gradient near zero
        assert one == (other if device.type == "cpu" else pytest.approx(other, rel=1e-2))
        assert one["radius"] == pytest.approx(EPSILON * (0.25 + 0.25 * index))
    assert graphed.captured
    with pytest.raises(ValueError, match="extra_views must be there in every batch, or in none"):
        graphed(batch(5, device=device))


def test_a_batch_without_the_views_is_refused():
    step = training_step(DAJAT(), classifier("base", "aug"))
    with pytest.raises(
        DataError, match="0 extra views of its images and the method needs 2; open the loader with extra_v"
    ):
        step(batch(0))
    with pytest.raises(DataError, match="1 extra views"):
        step(batch(0, extra_views=1))
    wrong = replace(batch(0, extra_views=2), extra_views=batch(0, extra_views=2).extra_views[..., :4])
    with pytest.raises(DataError, match=r"extra views have the shape \(2, 8, 1, 8, 4\)"):
        step(wrong)
    step(batch(0, extra_views=3))


# LAS-AT: another network with an objective, a direction and an interval of its own; an attack per image


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_las_at_moves_its_policy_every_third_step_up_the_reward(update):
    method, seen = LASAT(), []
    watched(method, seen)
    step = training_step(method, update=update)
    moved = []
    for index in range(7):
        given = batch(index)
        noise = method.draw_noise(given, torch.Generator().manual_seed(index))
        before = copy.deepcopy(method.policy)
        weights = step.model[0].weight.clone()
        step(given, noise)
        assert not torch.equal(weights, step.model[0].weight)
        after = list(method.policy.parameters())
        moved.append(any(not torch.equal(p, q) for p, q in zip(before.parameters(), after, strict=True)))
        if not moved[-1]:
            continue
        joint = seen[-1]
        log_probabilities = before(given.images).log_softmax(1)
        chosen = [method.choices.index(round(float(r) / EPSILON, 3)) for r in joint.extras["radius"]]
        fear = functional.cross_entropy(joint.logits[0].detach(), given.targets, reduction="none")
        reward = (fear * log_probabilities[torch.arange(8), chosen]).mean()
        gradients = torch.autograd.grad(reward, list(before.parameters()))
        for old, new, gradient in zip(before.parameters(), after, gradients, strict=True):
            torch.testing.assert_close(new, old + 0.5 * gradient, rtol=1e-4, atol=1e-6)
    assert moved == [True, False, False, True, False, False, True]
    assert step.why_not_captured is None


def test_las_at_captured_moves_its_policy_every_third_step(device):
    method = LASAT()
    execute, moved = GraphedStep(training_step(method, classifier().to(device))), []
    for index in range(7):
        before = copy.deepcopy(method.policy)
        execute(batch(index, device=device))
        pairs = zip(before.to(device).parameters(), method.policy.parameters(), strict=True)
        moved.append(any(not torch.equal(old, new) for old, new in pairs))
    assert execute.captured
    assert moved == [True, False, False, True, False, False, True]


def test_las_at_attacks_every_image_within_its_own_radius():
    method, seen = LASAT(), []
    watched(method, seen)
    step, given = training_step(method), batch(0)
    step(given)
    radius = seen[0].extras["radius"]
    assert len(set(radius.tolist())) > 1
    reached = (seen[0].examples[0] - given.images).abs().amax(dim=(1, 2, 3))
    torch.testing.assert_close(reached, radius)


def test_las_at_goes_on_from_a_checkpoint_in_its_interval():
    whole, first = training_step(LASAT()), training_step(LASAT())
    for index in range(2):
        whole(batch(index))
        first(batch(index))
    second = training_step(LASAT())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for index in range(2, 5):
        whole(batch(index))
        second(batch(index))
    assert int(second.state_dict()["steps_done"]) == 5
    for ours, theirs in zip(second.method.policy.parameters(), whole.method.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# AToP: a purifier in front of a classifier that is given


def snapshot(module) -> dict:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("update", ["joint", "alternating"])
@pytest.mark.parametrize("captured", [False, True])
def test_atop_trains_the_purifier_alone(update, captured, device):
    step = training_step(AToP(), purified_classifier().to(device), update=update)
    execute = GraphedStep(step) if captured else step
    purifier, behind = step.model
    frozen, free = snapshot(behind), snapshot(purifier)
    losses = []
    for index in range(12):
        step.set_learning_rate(0.1)
        given = batch(index, device=device)
        losses.append(float(execute(given)["loss"]))
        with in_eval_mode(step.evaluated_model), torch.no_grad():  # a validation between steps
            step.evaluated_model(given.images)
        assert not any(module.training for module in behind.modules())
        assert all(module.training for module in purifier.modules())
    assert not [name for name, value in behind.state_dict().items() if not torch.equal(value, frozen[name])]
    assert [name for name, value in purifier.state_dict().items() if not torch.equal(value, free[name])] == list(free)
    assert all(parameter.grad is None for parameter in behind.parameters())
    assert losses[-1] < 0.8 * losses[0]
    assert float(step.optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)


def test_atop_attacks_through_purifier_and_classifier():
    model = purified_classifier()
    step = training_step(AToP(), model)
    step(batch(0))
    images = batch(1).images
    step.attack_model.refresh()
    seen = image_gradient(step.attack_model, images, lambda logits: torch.ones_like(logits).cumsum(1), ("base",))
    with in_eval_mode(model):
        own = images.clone().requires_grad_()
        (expected,) = torch.autograd.grad((model(own) * torch.arange(1.0, CLASSES + 1)).sum(), own)
        (alone,) = torch.autograd.grad((model[1](own) * torch.arange(1.0, CLASSES + 1)).sum(), own)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(seen, alone, rtol=1e-2)
    assert AttackModel(model).verify(images) is None


def test_atop_goes_on_from_a_checkpoint_bit_for_bit():
    whole, first = training_step(AToP(), purified_classifier()), training_step(AToP(), purified_classifier())
    for index in range(2):
        whole(batch(index))
        first(batch(index))
    state = copy.deepcopy(first.state_dict())
    assert set(state["optimizers"]) == {"purifier"} and state["players"] == {}
    second = training_step(AToP(), purified_classifier())
    second.load_state_dict(state)
    for index in range(2, 4):
        assert torch.equal(whole(batch(index))["loss"], second(batch(index))["loss"])


def test_a_frozen_player_beside_the_model_stays_as_it_is_and_is_saved():
    class Distilled(PrototypeMethod):
        teacher = classifier(seed=9)

        def players(self, model):
            return (Player(name="model", network=model), Player(name="teacher", network=self.teacher, frozen=True))

        def examples(self, attack_model, batch, noise, progress):
            with torch.no_grad():
                taught = self.teacher(batch.images)
            return Examples(groups=(self.attacked(attack_model, batch, noise),), extras={"taught": taught})

        def losses(self, joint):
            return {"loss": functional.cross_entropy(joint.logits[0], joint.extras["taught"].softmax(1))}

    method = Distilled()
    step = training_step(method)
    before = snapshot(method.teacher)
    first = float(step(batch(0))["loss"])
    assert float([step(batch(index)) for index in range(1, 10)][-1]["loss"]) < first
    assert not [name for name, value in method.teacher.state_dict().items() if not torch.equal(value, before[name])]
    assert step.state_dict()["players"].keys() == {"teacher"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dajat", "atop"])
def test_compiled_follows_eager_and_is_compiled_once(method):
    """With a ramp, extra views, perturbed and averaged weights; with a frozen part, which stays in eval mode."""

    def make(**options):
        if method == "atop":
            return training_step(AToP(), purified_classifier(), **options)
        options |= {"weight_perturbation": AdversarialWeightPerturbation(0.02), "ema": EMASettings(decay=0.8)}
        return training_step(DAJAT(), classifier("base", "aug"), **options)

    counters.clear()
    eager, compiled = make(), make(compiled=True)
    graphs = []
    for index in range(4):
        for step in (eager, compiled):
            step.progress.set(epoch=index, fraction=index / 4)
        expected, found = (step(batch(index, extra_views=2)) for step in (eager, compiled))
        graphs.append(counters["stats"]["unique_graphs"])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert float(found[name]) == pytest.approx(float(value), rel=1e-4), name
    assert len(set(graphs)) == 1 and not counters["graph_break"]
    for name, average in eager.averages.by_name.items():
        pairs = zip(average.network.parameters(), compiled.averages.by_name[name].network.parameters(), strict=True)
        assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in pairs)
    if method == "atop":
        assert not any(module.training for module in compiled.model[1].modules())


# what a method can get wrong


def test_a_player_without_a_gradient_is_not_left_behind_in_silence():
    class Detached(LASAT):
        choices = (1.0,)

        def examples(self, attack_model, batch, noise, progress):
            made = PrototypeMethod.examples(self, attack_model, batch, noise, progress)
            return replace(made, extras={"log_probability": batch.images.new_zeros(8), "radius": batch.images.sum()})

        def losses(self, joint):
            terms = super().losses(joint)
            return {**terms, "reward": terms["loss"]}

    with pytest.raises(UserError, match="'reward' depends on no parameter of player policy; look for a detach"):
        training_step(Detached(), update="joint")(batch(0))


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"total": 1.0}, "the run follows 'loss', and the method's losses are total; return it too"),
        ({"loss": 1.0}, "player model follows 'margin', and the method's losses are loss; return it too"),
        ({"loss": 1.0, "margin": torch.ones(8)}, r"'margin' has the shape \(8,\); losses are means over the batch"),
    ],
)
def test_losses_that_lack_what_is_followed_are_refused(losses, message):
    class Wrong(PrototypeMethod):
        def players(self, model):
            return (Player(name="model", network=model, objective="margin"),)

        def losses(self, joint):
            return {name: joint.logits[0].mean() * value for name, value in losses.items()}

    with pytest.raises(UserError, match=message):
        training_step(Wrong())(batch(0))


def test_a_group_without_a_branch_is_refused():
    class Odd(PrototypeMethod):
        layout = ("base", "base")

    with pytest.raises(UserError, match=r"examples are 1 groups and its layout \(base, base\) names the branches of 2"):
        training_step(Odd())(batch(0))


# settings of an attack that are tensors


def test_a_radius_on_the_device_is_the_same_attack_as_the_number():
    images, model = batch(0).images, AttackModel(classifier())
    given = AttackSettings(epsilon=0.1, step_size=0.04, steps=3)
    tensors = AttackSettings(epsilon=torch.tensor(0.1), step_size=torch.tensor(0.04), steps=3)
    start = draw_start(torch.Generator().manual_seed(0))
    ascent = PrototypeMethod().ascent(batch(0).targets)
    assert torch.equal(
        pgd.pgd_attack(model, images, ascent, given, start), pgd.pgd_attack(model, images, ascent, tensors, start)
    )


def test_values_per_image_are_each_images_own_attack():
    images, model = batch(0).images, AttackModel(classifier())
    radius, step = torch.linspace(0.02, 0.2, 8), torch.linspace(0.01, 0.05, 8)
    ascent = PrototypeMethod().ascent(batch(0).targets)
    each = AttackSettings(epsilon=radius, step_size=step, steps=3)
    start = draw_start(torch.Generator().manual_seed(0))
    together = pgd.pgd_attack(model, images, ascent, each, start)
    for index in range(8):
        alone = AttackSettings(epsilon=float(radius[index]), step_size=float(step[index]), steps=3)
        expected = pgd.pgd_attack(model, images, ascent, alone, start)
        assert torch.equal(together[index], expected[index]), index


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            torch.ones(2, 1, 1, 1),
            r"float32 tensor without dimensions or of shape \[B\]; got torch.float32 of shape \(2, 1",
        ),
        (torch.tensor(0.1, dtype=torch.float64), "got torch.float64"),
    ],
)
def test_tensors_that_no_attack_can_take_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        AttackSettings(epsilon=value)


def test_a_number_of_values_that_is_not_that_of_the_images_is_refused():
    settings = AttackSettings(step_size=torch.ones(3))
    images = batch(0).images
    with pytest.raises(UserError, match="step_size has 3 values and 8 images are attacked"):
        pgd.pgd_attack(AttackModel(classifier()), images, lambda logits: logits, settings, images)


def test_the_prototypes_are_as_small_as_is_claimed():
    """A method is one file: none of them needs more than its own class."""
    assert all(len(inspect.getsource(method).splitlines()) < 60 for method in (MART, DAJAT, LASAT, AToP))
    assert SHAPE == (1, 8, 8)
