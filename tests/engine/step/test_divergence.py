"""Too many non-finite steps in a row end a run: at the step that is promised, and nothing changes after it."""

from dataclasses import replace

import pytest
import torch

from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.stop import Stop
from dat_engine.step.guard import MAX_NONFINITE_STEPS, NonFiniteError
from dat_engine.step.host_copy import HostCopy
from dat_engine.step.method import Examples
from tests.engine.run.test_trainer import StopAfter, trainer, weights
from tests.engine.step.test_training_step import batch, dat_step, everything

GOOD_STEPS = 7


class Arrival:
    """Stands for a GPU's event: a copy has come over when it has been asked about `delay` times."""

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self.asked = 0

    def record(self, stream: None) -> None:
        self.asked = 0

    def query(self) -> bool:
        self.asked += 1
        return self.asked > self.delay

    def synchronize(self) -> None:
        self.asked = self.delay


def diverging(run: RunDirectory):
    """A trainer whose losses are NaN after `GOOD_STEPS` steps and good again after the limit, without a log point or an
    epoch's end in between; and the weights before each of its steps.
    """
    ran = trainer(run, epochs=100)
    ran.plan = replace(ran.plan, log_every=1000)
    ran.loader.steps_per_epoch = 1000
    ran.loader.epoch = lambda epoch, start_step: (batch_of(ran) for _ in range(1000))
    healthy, seen = ran.step.method.examples, []

    def examples(attack_model, given, noise, progress):
        seen.append(weights(ran))
        bad = GOOD_STEPS < len(seen) <= GOOD_STEPS + MAX_NONFINITE_STEPS
        made = healthy(attack_model, given, noise, progress)
        return Examples(groups=tuple(group * torch.nan if bad else group for group in made.groups))

    ran.step.method.examples = examples
    return ran, seen


def assert_same_weights(ours, theirs):
    for name in ours:
        if "num_batches_tracked" not in name:
            assert torch.equal(ours[name], theirs[name]), name


def test_on_a_cpu_a_run_ends_after_exactly_twenty_bad_steps(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        ran, seen = diverging(run)
        with pytest.raises(NonFiniteError, match="stopped at step 27: 20 steps in a row"):
            ran.train(stop)
    assert len(seen) == 27
    assert_same_weights(weights(ran), seen[GOOD_STEPS])


def batch_of(ran):
    size = ran.loader.batch_size
    images = torch.rand(size, *ran.loader.image_shape, generator=torch.Generator().manual_seed(1))
    return replace(
        batch(size=size), images=images, originals=images, targets=torch.arange(size) % 4, indices=torch.arange(size)
    )


@pytest.mark.parametrize("delay", [0, 1, 6])
def test_a_host_that_hears_of_it_later_finds_the_same_weights_and_step(tmp_path, delay):
    with RunDirectory.create(tmp_path / "run", {}) as run, Stop() as stop:
        ran, seen = diverging(run)
        guard = ran.step.guard
        guard._consecutive_on_host = HostCopy(guard._consecutive, arrival=Arrival(delay))
        with pytest.raises(NonFiniteError, match=r"stopped at step 27: 20 steps in a row .* the loss is not finite"):
            ran.train(stop)
    assert 27 < len(seen) <= 27 + 2 * (delay + 1)
    assert_same_weights(weights(ran), seen[GOOD_STEPS])


def test_a_run_that_is_stopped_before_the_host_heard_saves_what_the_last_good_step_left(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run:
        ran, seen = diverging(run)
        ran.step.guard.seen_to_diverge = lambda: False
        with pytest.raises(NonFiniteError, match="stopped at step 27"):
            ran.train(StopAfter(30))
        saved, _ = run.checkpoints.load_newest()
    assert_same_weights(saved["training"]["model"], seen[GOOD_STEPS])


def test_what_one_process_has_heard_stops_all(tmp_path):
    class Two:
        world_size = 2
        is_main = True

        def total(self, values):
            return {**values, "diverged": 1.0}  # the other one's

    with RunDirectory.create(tmp_path / "run", {}) as run:
        ran = trainer(run)
        ran.step.guard._consecutive.fill_(MAX_NONFINITE_STEPS)
        ran.step.guard.seen_to_diverge = lambda: False
        ran.processes = Two()
        with pytest.raises(NonFiniteError, match="20 steps in a row"):
            ran._asked_to_stop(Stop())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_after_the_last_bad_step_good_ones_change_nothing(precision, update):
    step = dat_step(update=update, precision=precision, max_nonfinite_steps=2)
    step.guard._scale.clamp_(max=256)  # fp16: at which these gradients do not overflow
    step(batch())
    poisoned = replace(batch(1), images=torch.full_like(batch(1).images, torch.nan))
    step(poisoned)
    assert step(batch(2))["skipped"] == 0  # not in a row
    before = everything(step)
    for _ in range(2):
        step(poisoned)
    guard = step.guard.state_dict()
    for index in range(3):
        assert step(batch(index))["skipped"] == 1
    for name, value in everything(step).items():
        assert torch.equal(before[name], value), name
    for name, value in step.guard.state_dict().items():
        assert torch.equal(guard[name], value), name
    with pytest.raises(NonFiniteError, match=r"stopped at step 5: 2 steps in a row .* the loss is not finite"):
        step.guard.raise_if_diverged(step=8)


def test_a_state_from_before_takes_the_step_up_again():
    step = dat_step(max_nonfinite_steps=1)
    step(batch())
    saved = step.snapshot()
    step(replace(batch(1), images=torch.full_like(batch(1).images, torch.nan)))
    assert step.guard.seen_to_diverge()
    step.restore(saved)
    assert not step.guard.seen_to_diverge()
    assert step(batch(2))["skipped"] == 0
