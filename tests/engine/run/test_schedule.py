"""The learning rate's schedule: drops that stay apart in a run of any length, and the warm-up beside them."""

import math

import pytest

from dat_engine.run.schedule import Schedule


def factors(schedule: Schedule, epochs: int, steps_per_epoch: int) -> list[float]:
    """The factor at every step of a run."""
    return [schedule.factor(step / steps_per_epoch, epochs) for step in range(epochs * steps_per_epoch)]


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 6, 7, 12, 29, 30, 75, 150, 400])
@pytest.mark.parametrize(
    ("published", "milestones"), [(150, (100, 110)), (100, (75, 80)), (90, (30, 60, 80)), (200, (100, 150))]
)
def test_a_run_of_any_length_takes_every_drop_by_itself(published, milestones, epochs):
    schedule = Schedule(milestones=milestones).rescaled(from_epochs=published, to_epochs=epochs)
    rates = factors(schedule, epochs, steps_per_epoch=100)
    assert rates == sorted(rates, reverse=True)
    assert sorted(set(rates), reverse=True) == [schedule.decay**drops for drops in range(len(milestones) + 1)]
    for drops, milestone in enumerate(milestones):
        at_full = sum(rate > schedule.decay**drops * 0.5 for rate in rates) / len(rates)
        assert at_full == pytest.approx(milestone / published, abs=0.5 / epochs + 0.01)
    assert not schedule.concerns(epochs=epochs, steps_per_epoch=100)


def test_whole_epochs_stay_whole_where_they_can():
    published = Schedule(milestones=(100, 110))
    assert published.rescaled(from_epochs=150, to_epochs=50).milestones == (33, 37)
    assert published.rescaled(from_epochs=150, to_epochs=6).milestones == pytest.approx((4, 4.4))
    large = Schedule(milestones=(30, 60, 80)).rescaled(from_epochs=90, to_epochs=1)
    assert large.milestones == pytest.approx((1 / 3, 2 / 3, 8 / 9))


def test_milestones_that_do_nothing_or_too_much_are_named():
    def concerns(*milestones: float, epochs: int = 20, steps_per_epoch: int = 10, **changes) -> list[str]:
        schedule = Schedule(milestones=milestones, **changes)
        return schedule.concerns(epochs=epochs, steps_per_epoch=steps_per_epoch)

    assert concerns(5, 10) == concerns() == concerns(100, kind="cosine") == []
    (beyond,) = concerns(5, 20, 110)
    assert "never drops at epoch 20 and 110: the run ends before (20 epochs of 10 steps)" in beyond
    (beyond,) = concerns(0.667, 0.889, epochs=1, steps_per_epoch=2)
    assert "never drops at epoch 0.667 and 0.889" in beyond
    (twice,) = concerns(5, 5)
    assert "drops twice at one step, for the milestones 5 and 5" in twice
    (twice,) = concerns(4.41, 4.42)
    assert "4.41 and 4.42" in twice
    (at_start,) = concerns(0, 5)
    assert "from the first step on" in at_start


@pytest.mark.parametrize("milestone", [-1, -0.5, float("nan"), float("inf")])
def test_a_milestone_is_a_point_of_the_run(milestone):
    with pytest.raises(ValueError, match="milestones are epochs, counted from 0"):
        Schedule(milestones=(milestone,))


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
