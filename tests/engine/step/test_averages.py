"""Averages of weights beside the classifier: torch's own arithmetic, in eager and captured steps alike."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat_engine.errors import UserError
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.evaluated import evaluated_model, evaluated_name, evaluated_weights, names_in
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import AWPSettings, EMASettings, SWASettings, check_starts
from tests.engine.step.prototypes import CLASSES, MART, SHAPE, AToP, batch, classifier, purified_classifier
from tests.engine.step.test_whole_or_not import flat, trained

OPTIMIZER = SGDSettings(learning_rate=0.05)
EMA, SWA = EMASettings(decay=0.8), SWASettings(start=1)


def make(ema=EMA, swa=SWA, method=None, model=None, device="cpu", **options) -> TrainingStep:
    return TrainingStep(
        (classifier() if model is None else model).to(device),
        method or MART(),
        optimizer=OPTIMIZER,
        seed=2,
        ema=ema,
        swa=swa,
        **options,
    )


def dat_step(update: str) -> TrainingStep:
    torch.manual_seed(1)
    task = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=0.1)
    method = DATMethod(DAT(steps=1, generator_update=update, generator_optimizer=OPTIMIZER), task)
    return make(
        method=method, model=classifier("base", "mix"), weight_perturbation=AdversarialWeightPerturbation(gamma=0.02)
    )


def of(step: TrainingStep, name: str) -> list[torch.Tensor]:
    return [weight.clone() for weight in step.averages.by_name[name].network.parameters()]


def assert_equal(ours, theirs) -> None:
    for own, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, their, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("wrap", [lambda step: step, GraphedStep], ids=["eager", "graphed"])
def test_the_exponential_average_is_the_mean_of_all_steps_until_it_looks_back_over_as_many_as_the_decay_does(
    wrap, device
):
    step = make(device=device)
    run, raw, expected = wrap(step), [], []
    for index in range(8):
        run(batch(index, device=device))
        raw.append([weight.detach().clone() for weight in step.model.parameters()])
        if index < 5:  # 1 / (1 - 0.8)
            expected = [torch.stack(weights).mean(dim=0) for weights in zip(*raw, strict=True)]
        else:
            expected = [0.8 * own + 0.2 * weight for own, weight in zip(expected, raw[-1], strict=True)]
        assert_equal(of(step, "ema"), expected)
    assert not torch.equal(of(step, "ema")[0], step.model[0].weight)
    assert getattr(run, "captured", True)


def test_past_its_warm_up_the_exponential_average_is_torchs(device):
    step = make(device=device)
    for index in range(5):
        step(batch(index, device=device))
    reference = AveragedModel(step.averages.ema.network, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    reference.update_parameters(step.averages.ema.network)  # the first update is a copy
    for index in range(5, 8):
        step(batch(index, device=device))
        reference.update_parameters(step.model)
        assert_equal(of(step, "ema"), reference.module.parameters())


def test_the_mean_over_epochs_is_torchs_from_its_start_on(device):
    step = make(
        device=device, swa=SWASettings(start=1.5)
    )  # inside the second epoch, whose end is the first that counts
    reference = AveragedModel(step.model, multi_avg_fn=get_swa_multi_avg_fn())
    for epoch in range(1, 5):
        step(batch(epoch, device=device))
        step.averages.end_epoch(epoch)
        step.averages.end_epoch(epoch)  # an epoch's end that is reached again counts once
        assert step.averages.swa.begun == (epoch > 1)
        if epoch > 1:
            reference.update_parameters(step.model)
            assert_equal(of(step, "swa"), reference.module.parameters())
    weights = [weight.clone() for weight in step.model.parameters()]
    assert any(not torch.equal(own, raw) for own, raw in zip(of(step, "swa"), weights, strict=True))


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_a_skipped_step_leaves_the_average_and_whether_it_is_ready(update):
    step = dat_step(update)
    step(batch(0))
    average = step.averages.ema
    average.ready.fill_(1)
    before = flat(average.state_dict())
    hook = step.own_seats[0].parameters[0].register_hook(lambda gradient: gradient * torch.inf)
    assert step(batch(1))["skipped"] == 1
    hook.remove()
    after = flat(average.state_dict())
    assert not [name for name in before if not torch.equal(before[name], after[name])]
    step(batch(2))
    assert not average.ready
    assert not torch.equal(of(step, "ema")[0], before["/network/0.weight"])


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_a_graphed_step_averages_bit_for_bit_as_an_eager_one(update):
    eager, graphed = dat_step(update), dat_step(update)
    replay = GraphedStep(graphed)
    for index in range(3):
        eager(batch(index))
        replay(batch(index))
    expected = trained(eager)
    assert any(name.startswith("/averages/ema/network") for name in expected)
    assert not [name for name, value in trained(graphed).items() if not torch.equal(value, expected[name])]


def test_a_state_that_is_loaded_goes_on_as_the_step_that_gave_it():
    one, other = make(), make()
    for index in range(2):
        one(batch(index))
        one.averages.end_epoch(index + 1)
    one.averages.ema.ready.fill_(1)
    other.load_state_dict(one.snapshot())
    for step in (one, other):
        assert bool(step.averages.ema.ready)
        step(batch(2))
        step.averages.end_epoch(3)
    expected = trained(one)
    assert not [name for name, value in trained(other).items() if not torch.equal(value, expected[name])]
    assert "averages" not in make(ema=None, swa=None).state_dict()  # what older checkpoints look like


def test_a_frozen_part_of_the_network_is_in_the_average_as_it_is():
    model = purified_classifier()
    step = make(method=AToP(), model=model)
    for index in range(2):
        step(batch(index))
    network = step.averages.ema.network
    assert not network[1].training and network[0].training
    for own, raw in zip(network[1].parameters(), model[1].parameters(), strict=True):
        assert torch.equal(own, raw)
    assert not torch.equal(network[0].layers[0].weight, model[0].layers[0].weight)
    assert not any(weight.requires_grad for weight in network.parameters())


def test_the_mean_over_epochs_is_evaluated_before_the_exponential_average_and_that_before_the_raw_weights():
    step = make()
    step(batch(0))
    found = []
    for ready in ((), ("ema",), ("ema", "swa")):
        for name in ready:
            step.averages.by_name[name].ready.fill_(1)
        state = step.state_dict()
        assert names_in(state)[0] == evaluated_name(step) and names_in(state)[-1] == "raw"
        evaluated = evaluated_model(step).state_dict()
        assert all(torch.equal(value, evaluated[name]) for name, value in evaluated_weights(state).items())
        raw = step.model.state_dict()
        assert all(torch.equal(value, raw[name]) for name, value in evaluated_weights(state, "raw").items())
        found.append(evaluated_name(step))
    assert found == ["raw", "ema", "swa"]


@pytest.mark.parametrize(
    ("create", "sentence"),
    [
        (lambda: AWPSettings(gamma=-0.1), "awp.gamma must be positive and finite"),
        (lambda: AWPSettings(gamma=0.0), "awp.gamma must be positive .* or be left out; got 0"),
        (lambda: AWPSettings(gamma=float("nan")), "awp.gamma must be positive and finite"),
        (lambda: AWPSettings(gamma=0.01, start=-1), "awp.start is a number of epochs"),
        (lambda: EMASettings(decay=1.0), r"ema.decay must lie in \(0, 1\)"),
        (lambda: EMASettings(decay=0.0), r"ema.decay must lie in \(0, 1\)"),
        (lambda: EMASettings(bn_batches=0), "ema.bn_batches must be at least 1"),
        (lambda: SWASettings(start=float("inf")), "swa.start is a number of epochs"),
        (lambda: SWASettings(start=3, bn_batches=-1), "swa.bn_batches must be at least 1"),
        (
            lambda: check_starts(AWPSettings(), SWASettings(start=120), epochs=100),
            "swa.start is 120 and the run has 100 epochs, so no weights would be averaged; choose a start below 100",
        ),
        (
            lambda: check_starts(AWPSettings(gamma=0.1, start=100), SWASettings(), epochs=100),
            "awp.start is 100 and the run has 100 epochs",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(create, sentence):
    with pytest.raises(UserError, match=sentence):
        create()
    check_starts(AWPSettings(gamma=0.1, start=99), SWASettings(start=99.5), epochs=100)
