"""The verdicts of the step-time script, and that it runs its four subjects."""

import json

import pytest

from bench import step_time
from bench.step_time import TARGETS, verdicts
from dat_engine.profile.timing import Timing


def timings(**medians):
    return {
        name.replace("_at", "-at").replace("_", " "): Timing(steps=1, seconds=(value,), cpu_seconds=(value,))
        for name, value in medians.items()
    }


@pytest.mark.parametrize(
    ("dat", "met"),
    [(1.0, [True, True, True]), (1.21, [False, True, True]), (1.9, [False, True, False]), (2.1, [False, False, False])],
)
def test_each_target_is_judged_on_its_ratio(dat, met):
    results = verdicts(timings(dat=dat, pgd_at=1.0, eager_dat=3.6, eager_pgd_at=2.0))
    assert [result["met"] for result in results] == met
    assert [result["ratio"] for result in results] == pytest.approx([3.6 / dat, dat / 2, dat])


def test_the_targets_are_those_of_the_design():
    assert [(target.at_least, target.at_most) for target in TARGETS] == [(3.0, None), (None, 1.0), (None, 1.6)]


@pytest.mark.parametrize("missed", [False, True])
def test_the_script_measures_writes_and_fails_on_a_missed_target(tmp_path, monkeypatch, capsys, missed):
    targets = [step_time.Target(what="any", slower="dat", faster="pgd-at", at_most=0.0 if missed else 1e9)]
    monkeypatch.setattr(step_time, "TARGETS", targets)
    path = tmp_path / "result.json"
    words = ["--rounds", "2", "--batch-size", "4", "--width", "2", "--precision", "fp32", "--json", str(path)]
    assert step_time.main(words) == (1 if missed else 0)
    assert ("MISSED" in capsys.readouterr().out) == missed
    written = json.loads(path.read_text())
    assert set(written["round_seconds"]) == {"dat", "pgd-at", "eager dat", "eager pgd-at"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in written["round_seconds"].values())
    assert written["settings"]["width"] == 2 and "hardware" in written["environment"]
    assert written["targets"][0]["met"] is not missed
