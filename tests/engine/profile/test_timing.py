"""Taking turns, and the figures made of it."""

import itertools

import pytest
import torch

from dat_engine.data import Augmentation, ImageArrays, ResidentLoader
from dat_engine.profile import timing
from dat_engine.profile.timing import Subject, Timing, endless, steps_that_take, time_in_turn, time_ratio, warm_up

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves; it stands in for wall time."""

    class Clock:
        seconds = 0.0

    moved = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: moved.seconds)
    return moved


def subject(name, clock, durations, order):
    seconds = iter(durations)

    def run(batch):
        order.append(f"{name}{batch}")
        clock.seconds += next(seconds)

    return Subject(name=name, run=run, step=run, batches=itertools.count())


def test_contenders_take_turns_and_keep_their_batches(clock):
    order = []
    one = subject("a", clock, itertools.repeat(2.0), order)
    two = subject("b", clock, [1.0, 1.0, 3.0, 5.0], order)
    rounds = []
    timings = time_in_turn([one, two], CPU, rounds=2, steps={"a": 1, "b": 2}, on_round=rounds.append)
    assert order == ["a0", "b0", "b1", "a1", "b2", "b3"]
    assert timings["a"].seconds == (2.0, 2.0) and timings["b"].seconds == (2.0, 8.0)
    assert timings["b"].step_seconds == 2.5
    assert rounds == [0, 1]


def test_a_ratio_is_the_median_of_neighbours():
    slow_spell = Timing(steps=2, seconds=(4.0, 40.0, 4.4), cpu_seconds=(1.0, 1.0, 1.0))
    reference = Timing(steps=1, seconds=(1.0, 10.0, 1.0), cpu_seconds=(1.0, 1.0, 1.0))
    assert time_ratio(slow_spell, reference) == pytest.approx(2.0)
    assert time_ratio(reference, slow_spell) == pytest.approx(0.5)
    assert reference.threads_busy == pytest.approx(0.25)


def test_steps_that_take_a_second():
    assert [steps_that_take(1.0, seconds) for seconds in (0.02, 0.3, 1.0, 60.0)] == [50, 4, 1, 1]


def test_warming_up_returns_the_time_without_compilation(clock):
    assert warm_up(subject("a", clock, [100.0, 2.0], []), CPU) == 2.0


def test_endless_batches_are_those_of_one_epoch_after_another():
    arrays = ImageArrays(
        images=torch.randint(0, 256, (12, 1, 4, 4), dtype=torch.uint8),
        targets=torch.zeros(12, dtype=torch.int64),
        class_names=("only",),
    )
    loader = ResidentLoader(arrays, batch_size=4, augmentation=Augmentation(padding=0, flip=False), seed=0, device=CPU)
    seen = [batch.indices.tolist() for batch in itertools.islice(endless(loader, CPU), 7)]
    epochs = [[batch.indices.tolist() for batch in loader.epoch(epoch)] for epoch in range(3)]
    assert seen == [*epochs[0], *epochs[1], epochs[2][0]]
    assert epochs[0] != epochs[1]
