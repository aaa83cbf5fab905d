"""The learning rate's schedule in runs of other lengths: every drop stays, and stays apart from the others."""

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
