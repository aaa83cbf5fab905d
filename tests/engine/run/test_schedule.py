"""Warm-up beside the schedules: linear, fractional, never 0 at a step of training."""

import math

import pytest

from dat_engine.run.schedule import Schedule


@pytest.mark.parametrize("kind", ["step", "cosine"])
def test_warm_up_rises_linearly_to_the_schedule(kind):
    schedule = Schedule(kind=kind, milestones=(8,), warmup_epochs=2.5)
    assert [schedule.factor(progress, 10) for progress in (0.0, 0.5, 1.25, 2.5)] == pytest.approx([0, 0.2, 0.5, 1])


@pytest.mark.parametrize("kind", ["step", "cosine"])
def test_the_first_step_has_a_rate_and_the_last_of_the_warm_up_the_whole_one(kind):
    schedule = Schedule(kind=kind, milestones=(8,), warmup_epochs=0.75)
    steps = [schedule.factor(step / 4, 10, step=1 / 4) for step in range(4)]
    assert steps[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert steps[3] == pytest.approx(1, rel=1e-2)


def test_cosine_falls_over_what_is_left():
    schedule = Schedule(kind="cosine", warmup_epochs=2)
    assert schedule.factor(6, 10) == pytest.approx(0.5)
    assert schedule.factor(10, 10) == pytest.approx(0)
    assert Schedule(kind="cosine").factor(2.5, 10) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_milestones_are_epochs_of_the_run():
    schedule = Schedule(milestones=(1, 4), warmup_epochs=2)
    assert schedule.factor(1, 10) == pytest.approx(0.05)
    assert schedule.factor(4, 10) == pytest.approx(0.01)


def test_warm_up_keeps_its_share_of_another_length():
    rescaled = Schedule(kind="cosine", milestones=(), warmup_epochs=5).rescaled(from_epochs=100, to_epochs=10)
    assert rescaled == Schedule(kind="cosine", milestones=(), warmup_epochs=0.5)


def test_a_step_may_be_longer_than_the_warm_up():
    assert Schedule(warmup_epochs=0.1).factor(0, 10, step=0.5) == 1


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_impossible_warm_ups_are_named(value):
    with pytest.raises(ValueError, match="warmup_epochs must be finite and not negative"):
        Schedule(warmup_epochs=value)


def test_one_cycle_warms_up_by_itself():
    with pytest.raises(ValueError, match="one-cycle schedule warms up by itself; leave warmup_epochs at 0"):
        Schedule(kind="one-cycle", warmup_epochs=1)
