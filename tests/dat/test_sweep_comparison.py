"""The comparison of a sweep: its arithmetic on runs made up here, its table, its files and its picture."""

import json
import statistics
from pathlib import Path

import pytest

from dat.cli import main
from dat.recipes import Recipe
from dat.sweep import compare, read_sweep
from dat_engine.errors import UserError
from tests.dat.quick_run import write_config, write_figures

SWEEP = """
recipe: digits-resnet
seeds: [0, 1, 2]
runs: [{method: pgd-at}, {method: dat}, {method: plain}]
"""
SECONDS = {"pgd-at": ([2.0, 2.0, 8.0], [4.0, 4.0, 4.0]), "dat": ([6.0, 5.0, 6.0],)}
ACCURACY = {"pgd-at": ((80.0, 50.0), (84.0, 47.0)), "dat": ((78.0, 52.0),)}


def finished_run(path: Path, recipe: Recipe, *, accuracy: dict[str, float], seconds: list[float], gpu=None) -> None:
    write_config(path, recipe.to_dict(), gpu=gpu)
    write_figures(path, accuracy=accuracy, seconds=seconds)


@pytest.fixture
def half_done(tmp_path) -> Path:
    """Two seeds of pgd-at, one of dat, none of plain."""
    path = tmp_path / "made-up.yaml"
    path.write_text(SWEEP)
    for run in read_sweep(path).runs:
        if run.seed < len(SECONDS.get(run.name, ())):
            natural, robust = ACCURACY[run.name][run.seed]
            finished_run(
                tmp_path / "out" / run.folder,
                run.recipe,
                accuracy={"natural": natural, "fgsm": 60.0, "pgd20": robust},
                seconds=SECONDS[run.name][run.seed],
            )
    return path


def test_means_deviations_and_cost(half_done):
    comparison = compare(read_sweep(half_done), half_done.parent / "out")
    pgd_at, dat, plain = comparison.runs
    assert (pgd_at.seeds, dat.seeds, plain.seeds) == ((0, 1), (0,), ())
    assert pgd_at.accuracy["pgd20"].mean == 48.5
    assert pgd_at.accuracy["pgd20"].deviation == pytest.approx(4.5**0.5)  # of the sample: n - 1
    assert dat.accuracy["pgd20"].mean == 52.0 and dat.accuracy["pgd20"].deviation is None
    # medians over epochs, 2 and 4 seconds, so that a slow one counts no more than another
    assert pgd_at.seconds_per_epoch.values == (2.0, 4.0)
    assert pgd_at.seconds_per_epoch.deviation == pytest.approx(statistics.stdev([2, 4]))
    assert (pgd_at.relative_cost, dat.relative_cost, plain.relative_cost) == (1.0, 2.0, None)
    assert plain.accuracy == {} and plain.seconds_per_epoch is None
    assert comparison.missing == (
        "plain/seed-0",
        "dat/seed-1",
        "plain/seed-1",
        "pgd-at/seed-2",
        "dat/seed-2",
        "plain/seed-2",
    )
    assert comparison.robust == "pgd20" and comparison.devices == ("Abacus, 2 cores",)


def test_the_command_prints_and_writes_what_is_there_so_far(half_done, capsys):
    out = half_done.parent / "out"
    assert main(["sweep", str(half_done), "--out", str(out), "--compare"]) == 0
    said = capsys.readouterr().out
    page = (out / "comparison.md").read_text()
    row = "| pgd-at | 82.0 ± 2.8 | 60.0 ± 0.0 | 48.5 ± 2.1 | 3.00 ± 1.41 | 1.00x | 2 |"
    assert row in page and "| plain | - | - | - | - | - | 0 |" in page
    assert "| dat | 78.0 | 60.0 | 52.0 | 6.00 | 2.00x | 1 |" in page
    for text in (said, page):
        assert "48.5 ± 2.1" in text and "on Abacus, 2 cores" in text and "Not finished: plain/seed-0, " in text
    written = json.loads((out / "comparison.json").read_text())
    assert written["runs"][0]["accuracy"]["natural"] == {
        "values": [80, 84],
        "mean": 82,
        "deviation": pytest.approx(8**0.5),
    }


def test_the_picture_has_a_labelled_point_for_each_finished_run(half_done):
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib: pip install 'dat-engine[sweep]'")
    out = half_done.parent / "out"
    assert main(["sweep", str(half_done), "--out", str(out), "--compare"]) == 0
    picture = (out / "comparison.svg").read_text()
    assert picture.count(">pgd-at</text>") == picture.count(">dat</text>") == 2  # natural and robust
    assert ">plain</text>" not in picture
    for label in ("natural accuracy", "PGD-20 accuracy", "seconds per epoch", "percent"):
        assert f">{label}</text>" in picture, label


def test_different_devices_are_said(half_done, tmp_path):
    run = next(run for run in read_sweep(half_done).runs if run.name == "plain")
    finished_run(tmp_path / "out" / run.folder, run.recipe, accuracy={"natural": 9.0}, seconds=[1.0], gpu="Loom 9")
    assert main(["sweep", str(half_done), "--out", str(tmp_path / "out"), "--compare"]) == 0
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "Abacus, 2 cores and Loom 9; times of different devices say nothing" in page


def test_nothing_finished_writes_nothing(tmp_path, capsys):
    path = tmp_path / "made-up.yaml"
    path.write_text(SWEEP)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--compare"]) == 0
    assert capsys.readouterr().out == "none of the 9 runs is finished\n"
    assert not (tmp_path / "out").exists()


def test_runs_of_a_file_that_was_edited_since_are_refused(half_done, capsys):
    out = half_done.parent / "out"
    half_done.write_text(f"{SWEEP}fields: {{epochs: 4}}\n")
    with pytest.raises(
        UserError, match=r"pgd-at/seed-0 holds a run with epochs 25, and the sweep wants 4; use another --out"
    ):
        compare(read_sweep(half_done), out)
    assert main(["sweep", str(half_done), "--out", str(out), "--compare"]) == 2
    assert "holds a run with epochs 25" in capsys.readouterr().err and not (out / "comparison.md").exists()
