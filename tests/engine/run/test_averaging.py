"""Averages through a whole run: statistics of their own, resumed bit for bit, evaluated in place of the raw weights."""

import copy
import time

import pytest
import torch
from torch import nn

from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat_engine.distributed import ONE_PROCESS
from dat_engine.run.averaging import Averaging
from dat_engine.run.checkpoint import load
from dat_engine.run.interval import parse_interval
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.stop import Stop, Stopped
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.evaluated import names_in
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import EMASettings, SWASettings
from tests.engine.run.tiny_training import StopAfter, rows, trainer
from tests.engine.step.prototypes import CLASSES, SHAPE, batch, classifier
from tests.engine.step.test_whole_or_not import flat

BOTH = {
    "weight_perturbation": AdversarialWeightPerturbation(0.01, start=0.4),
    "ema": EMASettings(decay=0.7, bn_batches=2),
    "swa": SWASettings(start=1, bn_batches=3),
}


def averaged(run: RunDirectory, **options):
    return trainer(run, step=BOTH, **options)


def state_of(trained) -> dict[str, torch.Tensor]:
    return flat(trained.step.state_dict())


def unequal(one: dict, other: dict) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three epochs that was never stopped, and what its validation was given."""
    seen = []
    with RunDirectory.create(tmp_path_factory.mktemp("run") / "whole", {}) as run, Stop() as stop:
        ran = averaged(
            run, validate=lambda model: seen.append(copy.deepcopy(model.state_dict())) or {"pgd20": len(seen)}
        )
        assert ran.train(stop) == "finished"
        return ran, seen, rows(run), load(run.checkpoints.best_path)


def test_the_raw_run_is_the_one_without_averages_bit_for_bit(tmp_path):
    with RunDirectory.create(tmp_path / "plain", {}) as run, Stop() as stop:
        plain = trainer(run, step={"weight_perturbation": BOTH["weight_perturbation"]})
        plain.train(stop)
    with RunDirectory.create(tmp_path / "averaged", {}) as run, Stop() as stop:
        ran = averaged(run)
        before = torch.get_rng_state()
        ran.train(stop)
        assert torch.equal(torch.get_rng_state(), before)
    found = {name: value for name, value in state_of(ran).items() if not name.startswith("/averages")}
    assert not unequal(found, state_of(plain))


def test_rows_checkpoints_and_the_best_of_them_are_of_the_evaluated_weights(whole):
    ran, seen, written, best = whole
    epochs = [row for row in written if "epoch_loss" in row]
    assert [row["evaluated"] for row in epochs] == ["ema", "swa", "swa"]
    assert [row["best"] for row in epochs] == [True, True, True]
    state = ran.step.state_dict()
    assert names_in(state) == names_in(best["training"]) == ("swa", "ema", "raw")
    assert not unequal(flat(dict(seen[2])), flat(dict(best["training"]["averages"]["swa"]["network"])))
    assert unequal(flat(dict(seen[2])), flat(dict(state["model"])))


@pytest.mark.parametrize("looks", [1, 5, 8, 13])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole, tmp_path, looks):
    with RunDirectory.create(tmp_path / "parts", {}) as run:
        assert averaged(run, validate=lambda model: {"pgd20": 1.0}).train(StopAfter(looks)) == "time limit"
    with RunDirectory.resume(tmp_path / "parts") as run, Stop() as stop:
        second = averaged(run, validate=lambda model: {"pgd20": 1.0})
        second.resume()
        assert second.train(stop) == "finished"
    assert not unequal(state_of(second), state_of(whole[0]))


def test_an_epoch_whose_validation_was_stopped_is_averaged_once(whole, tmp_path):
    def stopped(model):
        raise Stopped("signal")

    with RunDirectory.create(tmp_path / "run", {}) as run:
        first = averaged(run, validate=lambda model: {"pgd20": 1.0})
        assert first.train(StopAfter(7)) == "time limit"
    with RunDirectory.resume(tmp_path / "run") as run, Stop() as stop:
        second = averaged(run, validate=stopped)
        second.resume()
        assert second.train(stop) == "signal"
    with RunDirectory.resume(tmp_path / "run") as run, Stop() as stop:
        third = averaged(run, validate=lambda model: {"pgd20": 1.0})
        third.resume()
        assert third.train(stop) == "finished"
    assert not unequal(state_of(third), state_of(whole[0]))


def test_an_average_counts_at_the_ends_of_epochs_and_of_a_run_that_ends_in_one(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        ran = averaged(run, max_steps=9, checkpoints=parse_interval("3"))
        execute = ran.execute

        def unhurried(batch):
            ran._writer.wait()  # while one is under way, none is due
            return execute(batch)

        ran.execute = unhurried
        assert ran.train(stop) == "step limit"
        names = {path.name: names_in(load(path)["training"]) for path in run.checkpoints.step_paths()}
    assert names == {"step-00000009.safetensors": ("ema", "raw"), "step-00000008.safetensors": ("raw",)}


def test_statistics_are_the_means_over_batches_of_every_branchs_own_images():
    """Also of the branch whose images the method makes, from the averaged network, which the run's own parts survive."""
    torch.manual_seed(1)
    method = DATMethod(
        DAT(steps=2, generator_optimizer=SGDSettings(learning_rate=0.05)),
        Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=0.1),
    )
    step = TrainingStep(
        classifier("base", "mix"),
        method,
        optimizer=SGDSettings(learning_rate=0.05),
        ema=EMASettings(decay=0.5, bn_batches=2),
    )
    for index in range(3):
        step(batch(index))
    before = {name: value for name, value in flat(step.state_dict()).items() if not name.startswith("/averages")}
    groups, opened = [], []
    examples = method.examples

    def recorded(attack_model, given, noise, progress):
        assert attack_model is not step.attack_model and float(progress.epoch) == 1 and float(progress.fraction) == 0.25
        made = examples(attack_model, given, noise, progress)
        groups.append(made.detached().groups)
        return made

    def batches():
        opened.append(1)
        for index in range(3):
            yield batch(index)

    method.examples = recorded
    Averaging(step, ONE_PROCESS, batches).end_epoch(epochs_done=1, epochs=4)
    after = {name: value for name, value in flat(step.state_dict()).items() if not name.startswith("/averages")}
    assert not unequal(before, after) and len(groups) == 2 and opened == [1]
    network = step.averages.ema.network
    weights, layers = dict(network.named_parameters()), dict(network.named_modules())
    features = [
        [
            nn.functional.conv2d(images.double(), weights["0.weight"].double(), weights["0.bias"].double(), 2, 1)
            for images in each
        ]
        for each in groups
    ]
    for branch, indices in (("base", (0, 1)), ("mix", (2, 3))):
        own = [each[index] for each in features for index in indices]
        mean = torch.stack([values.mean(dim=(0, 2, 3)) for values in own]).mean(dim=0)
        variance = torch.stack([values.var(dim=(0, 2, 3)) for values in own]).mean(dim=0)
        layer = layers[f"1.{branch}"]
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-4, atol=1e-6)
        assert layer.momentum == 0.1 and int(layer.num_batches_tracked) == 4


def test_the_time_of_estimating_statistics_is_training_and_that_of_validation_is_not(tmp_path, monkeypatch):
    clock = 0.0

    def passes(seconds: float) -> float:
        nonlocal clock
        clock += seconds
        return clock

    estimate = Averaging.make_ready
    monkeypatch.setattr(time, "perf_counter", lambda: passes(1e-4))
    monkeypatch.setattr(Averaging, "make_ready", lambda own, **how: (passes(10), estimate(own, **how)))
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        ran = averaged(run, validate=lambda model: passes(1000) and {"pgd20": 1.0})
        assert ran.train(stop) == "finished"
        ends = [row["seconds"] for row in rows(run) if "epoch_loss" in row]
    assert ends == pytest.approx([10, 20, 30], abs=0.5) and ran.seconds == ends[-1]
