"""The loop: what it writes, where it stops, and that going on equals never having stopped."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

from dat_engine.data import Augmentation, DataError, ImageArrays, ResidentLoader
from dat_engine.run.checkpoint import CheckpointError
from dat_engine.run.display import Display
from dat_engine.run.plan import TrainingPlan
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.schedule import Schedule
from dat_engine.run.stop import Stop, Stopped
from dat_engine.run.trainer import Trainer
from dat_engine.step.guard import NonFiniteError
from dat_engine.step.method import Examples, Method
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from tests.engine.run.tiny_training import StopAfter, rows, weights


class Blur(Method):
    """A minimal method with random numbers of its own: cross entropy on noisy images."""

    def draw_noise(self, batch, generator):
        return {"noise": torch.randn(batch.images.shape, generator=generator)}

    def examples(self, attack_model, batch, noise, progress):
        return Examples(groups=(batch.images + 0.1 * noise["noise"],))

    def losses(self, joint):
        return {"loss": nn.functional.cross_entropy(joint.logits[0], joint.targets)}


def arrays(count: int = 40) -> ImageArrays:
    generator = torch.Generator().manual_seed(0)
    return ImageArrays(
        images=torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8),
        targets=torch.arange(count) % 4,
        class_names=("a", "b", "c", "d"),
    )


def trainer(
    run: RunDirectory, *, identity: str = "x", validate=None, epochs: int = 3, max_steps=None, **changes
) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4))
    step = TrainingStep(model, Blur(), optimizer=SGDSettings(learning_rate=0.05), seed=1)
    loader = ResidentLoader(
        arrays(), batch_size=8, augmentation=Augmentation(padding=1, flip=True), seed=2, device="cpu"
    )
    plan = TrainingPlan(
        epochs=epochs,
        learning_rate=0.05,
        schedule=Schedule(kind="cosine"),
        max_steps=max_steps,
        log_every=2,
    )
    return Trainer(step, loader, plan, run, Display(), identity={"recipe": identity}, validate=validate, **changes)


def test_writes_steps_epochs_and_checkpoints(tmp_path):
    scores = iter(
        [{"natural": 50.0, "pgd20": 10.0}, {"natural": 60.0, "pgd20": 30.0}, {"natural": 70.0, "pgd20": 20.0}]
    )
    with RunDirectory.create(tmp_path / "run", {}) as run:
        ran = trainer(run, validate=lambda model: next(scores))
        after_epoch = []
        original = ran._finish_epoch
        ran._finish_epoch = lambda: (original(), after_epoch.append(weights(ran)))[0]
        with Stop() as stop:
            assert ran.train(stop) == "finished"
        best = run.checkpoints.load_best()
        written = rows(run)
    assert [row["step"] for row in written if "loss" in row] == [2, 4, 6, 8, 10, 12, 14]
    epochs = [row for row in written if "epoch_loss" in row]
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert [row["best"] for row in epochs] == [True, True, False]
    assert epochs[1]["validation_pgd20"] == 30.0
    for name, value in best["training"]["model"].items():
        assert torch.equal(value, after_epoch[1][name])
    assert best["position"]["epoch"] == 2
    assert all({"lr", "seconds", "images_per_second"} <= set(row) for row in written if "loss" in row)


@pytest.mark.parametrize("looks", [1, 4, 5, 7], ids=lambda looks: f"stopped after step {looks}")
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, looks):
    with RunDirectory.create(tmp_path / "whole", {}) as run:
        whole = trainer(run)
        with Stop() as stop:
            whole.train(stop)
        expected_rows = rows(run)
    with RunDirectory.create(tmp_path / "parts", {}) as run:
        assert trainer(run).train(StopAfter(looks)) == "time limit"
    with RunDirectory.resume(tmp_path / "parts") as run:
        second = trainer(run)
        second.resume()
        with Stop() as stop:
            assert second.train(stop) == "finished"
        resumed_rows = rows(run)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(second)[name]), name
    epoch_losses = [[row["epoch_loss"] for row in log if "epoch_loss" in row] for log in (expected_rows, resumed_rows)]
    assert epoch_losses[0] == epoch_losses[1]


def test_step_limit_saves_and_stops(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        ran = trainer(run, max_steps=7)
        assert ran.train(stop) == "step limit"
        state, _ = run.checkpoints.load_newest()
    assert state["position"]["step"] == 7 and state["position"]["step_in_epoch"] == 2


def test_sigterm_finishes_the_step_and_saves(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        ran = trainer(run, epochs=10_000)
        killer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
        killer.start()
        assert ran.train(stop) == "signal"
        assert stop.exit_code == 143
        state, _ = run.checkpoints.load_newest()
    for name, value in state["training"]["model"].items():
        assert torch.equal(value, weights(ran)[name])


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run:
        trainer(run).train(StopAfter(1))
    with (
        RunDirectory.resume(tmp_path / "run") as run,
        pytest.raises(CheckpointError, match="checkpoint of another recipe"),
    ):
        trainer(run, identity="y").resume()


def test_divergence_stops_the_run_with_its_step(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        ran = trainer(run, epochs=100)
        healthy = weights(ran)
        ran.step.method.examples = lambda attack_model, batch, noise, progress: Examples(
            groups=(batch.images * torch.nan,)
        )
        with pytest.raises(NonFiniteError, match="stopped at step 20: 20 steps in a row"):
            ran.train(stop)
    for name, value in weights(ran).items():
        if "num_batches_tracked" not in name:
            assert torch.equal(value, healthy[name])


def test_learning_rate_follows_the_schedule(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        trainer(run).train(stop)
        rates = [row["lr"] for row in rows(run) if "loss" in row]
    schedule = Schedule(kind="cosine")
    assert rates == pytest.approx([0.05 * schedule.factor((step - 1) / 5, 3) for step in (2, 4, 6, 8, 10, 12, 14)])


def test_a_stop_in_a_validation_is_resumed_as_if_it_had_never_been(tmp_path):
    def scores():
        return iter(
            [{"natural": 50.0, "pgd20": 10.0}, {"natural": 60.0, "pgd20": 30.0}, {"natural": 7.0, "pgd20": 2.0}]
        )

    with RunDirectory.create(tmp_path / "whole", {}) as run:
        given_whole = scores()
        whole = trainer(run, validate=lambda model: next(given_whole))
        with Stop() as stop:
            whole.train(stop)
        expected = rows(run)
    given = scores()
    calls = []

    def validate(model):
        calls.append(len(calls))
        if len(calls) == 2:  # that of the second epoch
            raise Stopped("signal")
        return next(given)

    with RunDirectory.create(tmp_path / "parts", {}) as run:
        with Stop() as stop:
            assert trainer(run, validate=validate).train(stop) == "signal"
        assert [row["epoch"] for row in rows(run) if "epoch_loss" in row] == [1]
        again = trainer(run, validate=validate)
        again.resume()
        with Stop() as stop:
            assert again.train(stop) == "finished"
        found = rows(run)
    assert len(calls) == 4
    for name, value in weights(again).items():
        assert torch.equal(value, weights(whole)[name]), name
    timeless = [
        [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in part]
        for part in (found, expected)
    ]
    assert timeless[0] == timeless[1]


def test_a_loader_that_fails_leaves_a_checkpoint_of_the_steps_before(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run:
        ran = trainer(run)
        whole_epoch = ran.loader.epoch

        def epoch(number, *, start_step=0):
            for step, batch in enumerate(whole_epoch(number, start_step=start_step), start=start_step):
                if step == 3:
                    raise DataError("image file a.jpg is damaged")
                yield batch

        ran.loader.epoch = epoch
        with Stop() as stop, pytest.raises(DataError, match=r"a\.jpg"):
            ran.train(stop)
        again = trainer(run)
        again.resume()
        assert again._position.step == 3
