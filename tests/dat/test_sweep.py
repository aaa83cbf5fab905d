"""``dat sweep``: what it takes a file for, what it runs, skips and resumes, and what it says of a run that fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import dat
from dat.cli import main
from dat.cli.sweep_flags import parse_sweep_flags
from dat.recipes import recipe
from dat.sweep import read_sweep, sweeping, training_process
from dat.sweep.progress import Progress
from dat_engine.errors import UserError
from dat_engine.run.lock import RunLock, holder_of
from dat_engine.run.stop import Stop
from tests.dat import quick_run
from tests.dat.quick_run import write_config, write_figures

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TINY = """
recipe: digits-resnet
fields:
  limit_train: 32
  batch_size: 16
  epochs: 2
  model.width: 4
  data.validation: 10
  evaluation: {attacks: "natural,fgsm", limit: 10}
options: {device: cpu}
"""


@pytest.fixture
def quick_runs(monkeypatch):
    """`tests/dat/quick_run.py` in the place of ``dat train``; what is checked before the runs is checked."""
    monkeypatch.setattr(training_process, "TRAIN", (sys.executable, "-S", quick_run.__file__))


@contextmanager
def sent_when(ready: Callable[[], bool], number: int) -> Iterator[None]:
    """The signal is sent to this process once something is ready."""

    def send() -> None:
        while not ready():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    yield
    sender.join()


def wait_until(ready: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sweep_file(folder: Path, text: str) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def test_runs_are_whole_recipes_seed_by_seed(tmp_path):
    sweep = read_sweep(
        sweep_file(
            tmp_path,
            """
            recipe: cifar10-resnet18
            fields: {epochs: 30, model: {width: 16}}
            seeds: [3, 1]
            runs:
              - method: pgd-at
              - {name: gentle, method: dat, fields: {dat.beta: 6, model.width: 8}}
              - {recipe: cifar100-resnet18, method: trades, fields: {epochs: 60}}
            """,
        )
    )
    assert sweep.name == "small" and sweep.names == ("pgd-at", "gentle", "cifar100-resnet18-trades")
    assert [(run.name, run.seed, run.recipe.seed) for run in sweep.runs[::2]] == [
        ("pgd-at", 3, 3),
        ("cifar100-resnet18-trades", 3, 3),
        ("gentle", 1, 1),
    ]
    plain, gentle, other = (run.recipe for run in sweep.runs[:3])
    assert (plain.model.width, gentle.model.width, other.model.width) == (16, 8, 16)
    assert (gentle.settings.beta, gentle.epochs, other.epochs, other.data.name) == (6, 30, 60, "cifar100")
    # the rate drops at the same share of a run, whoever names its epochs
    published = recipe("cifar100-resnet18", "trades")
    assert other.schedule.milestones[0] / 60 == published.schedule.milestones[0] / published.epochs
    assert str(sweep.runs[1].folder) == "gentle/seed-3"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("runs: [{method: dat, fields: {model.widht: 4}}]", "run dat: a recipe has no field model.widht; did you mean"),
        ("fields: {epoch: 4}\nruns: [{method: dat}]", "run dat: a recipe has no field epoch; did you mean epochs?"),
        ("runs: [{method: dat, fields: {epochs: 0}}]", "run dat: epochs must be at least 1; got 0"),
        ("runs: [{method: pdg-at}]", "run pdg-at: no method is called 'pdg-at'; did you mean pgd-at?"),
        ("runs: [{method: dat, recipe: digits}]", "run digits-dat: no recipe is called 'digits'"),
        ("runs: [{method: dat}, {method: dat}]", "run 2 is called dat, and so is one before it"),
        ("runs: [{method: dat}, {method: dat, name: DAT}]", "run 2 is called DAT, and one that differs by case alone"),
        ("runs: [{method: dat, name: comparison.json}]", "run 1 is called comparison.json, as is what the sweep itself"),
        ("runs: [{method: dat, name: Comparison.SVG}]", "run 1 is called Comparison.SVG, as is what the sweep itself"),
        ("runs: [{method: dat, name: ../dat}]", "run 1: the name '../dat' cannot be a folder's"),
        ("runs: [{method: dat, filds: {}}]", "run 1: a run has no filds; did you mean fields?"),
        ("runs: [{fields: {}}]", "run 1 has no method, and the sweep names none"),
        ("runs: [dat]", "run 1 must hold method, recipe, fields or name; got 'dat'"),
        ("runs: []", "lists no runs"),
        ("runs: [{method: dat}]\nseed: 1", "a sweep has no seed; did you mean seeds?"),
        ("runs: [{method: dat}]\nseeds: [1, 1]", "seeds has a number twice"),
        ("runs: [{method: dat}]\nseeds: 3", "seeds must be a list of whole numbers"),
        ("runs: [{method: dat, fields: {seed: 1}}]", "run dat: every run is made for every one of the sweep's seeds"),
        ("runs: [{method: dat}]\noptions: {devcie: cpu}", "a sweep has no option devcie; did you mean device?"),
        ("runs: [{method: dat}]\noptions: {jobs: many}", "options.jobs must be a whole number; got 'many'"),
        ("runs: [{method: dat}]\noptions: {executor: there}", "options.executor must be one of here, local, slurm"),
        ("runs: [{method: dat}]\noptions: {jobs: 2}", "options: 2 runs at a time need another executor"),
        ("runs: [", "is not YAML"),
        ("runs: [{method: dat, fields: {epochs: 2, epochs: 3}}]", " gives epochs twice, in line 2; give it once"),
        ("runs: [{method: dat}]\nrecipe: cifar10-resnet18", " gives recipe twice, in lines 1 and 3; give it once"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_sentence_that_names_file_and_run(tmp_path, capsys, monkeypatch, text, sentence):
    monkeypatch.chdir(tmp_path)
    path = sweep_file(tmp_path, f"recipe: digits-resnet\n{text}\n")
    assert main(["sweep", str(path)]) == 2
    written = capsys.readouterr().err
    assert written.startswith(f"dat sweep: {path}") and sentence in written, written
    assert len(written.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_only_the_run_would_refuse_is_refused_before_any_is_started(tmp_path, capsys):
    for fields, sentence in (
        ("model.name: resnet81", "no model is called 'resnet81'"),
        ("evaluation.attacks: pgd21", "no attack is called 'pgd21'"),
        ("data.name: imagefolder", "the data root /nowhere does not exist"),
        ("swa.start: 2", "swa.start is 2 and the run has 2 epochs"),
    ):
        path = sweep_file(
            tmp_path, TINY + f"runs: [{{method: pgd-at}}, {{name: b, method: dat, fields: {{{fields}}}}}]"
        )
        words = ["sweep", str(path), "--out", str(tmp_path / "out"), "--data-root", "/nowhere"]
        for dry in ([], ["--dry-run"]):
            assert main([*words, *dry]) == 2
            written = capsys.readouterr().err
            assert written.startswith("dat sweep: run b: ") and sentence in written
        assert not (tmp_path / "out").exists()


def test_flags_override_the_file(tmp_path):
    path = sweep_file(tmp_path, TINY + "runs: [{method: dat}]")
    sweep, options = parse_sweep_flags([str(path)])
    assert (options.device, str(sweep.folder(options))) == ("cpu", "runs/small")
    _, options = parse_sweep_flags([str(path), "--device", "cuda", "--executor", "local", "--jobs", "3", "--out", "x"])
    assert (options.device, options.jobs, str(sweep.folder(options))) == ("cuda", 3, "x")
    with pytest.raises(UserError, match="unrecognized --job; did you mean --jobs"):
        parse_sweep_flags([str(path), "--job", "3"])


def test_the_guide_shows_the_example():
    lines = (EXAMPLES / "sweep_digits.yaml").read_text().splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("#")) in (ROOT / "docs/guide/sweep.md").read_text()


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("sweep_*.yaml")), ids=lambda path: path.stem)
def test_a_dry_run_lists_the_runs_and_writes_nothing(example, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", str(example), "--dry-run", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "pgd-at/seed-0" in said and ": begin" in said and not list(tmp_path.iterdir())


def test_a_sweep_runs_skips_resumes_and_names_what_failed(tmp_path, capfd, quick_runs):
    out = tmp_path / "out"
    path = sweep_file(
        tmp_path, TINY + "runs: [{method: plain}, {name: bad, method: plain}, {method: pgd-at}, {method: trades}]"
    )
    done, _, begun, new = read_sweep(path).runs
    write_config(out / done.folder, done.recipe.to_dict())
    write_figures(out / done.folder, accuracy={"natural": 95.0}, seconds=[0.5])
    write_config(out / begun.folder, begun.recipe.to_dict())

    assert main(["sweep", str(path), "--out", str(out)]) == 1
    said = capfd.readouterr()
    why = f"the disk is full; free some of it ({out}/bad/seed-0.log)"
    assert said.err == f"dat sweep: bad/seed-0 failed: {why}\n"
    assert [line for line in said.out.splitlines() if line.startswith("[") and ": epoch " not in line] == [
        "[1/4] plain, seed 0: finished before",
        "[2/4] bad, seed 0: begins",
        f"[2/4] bad, seed 0: failed: {why}",
        "[3/4] pgd-at, seed 0: goes on",
        "[3/4] pgd-at, seed 0: done",
        "[4/4] trades, seed 0: begins",
        "[4/4] trades, seed 0: done",
    ]
    assert "Not finished: bad/seed-0." in said.out
    assert not (out / "plain" / "seed-0.log").exists()
    assert "started --resume --run-dir" in (out / "pgd-at" / "seed-0.log").read_text()
    assert (
        f"started --config {out}/trades/seed-0.json --run-dir {out / new.folder}"
        in (out / "trades/seed-0.log").read_text()
    )

    assert main(["sweep", str(path), "--out", str(out), "--dry-run"]) == 0
    planned = capfd.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in planned[:4]] == ["finished", "begin", "finished", "finished"]


def test_a_run_of_another_recipe_in_its_place_is_refused(tmp_path, capfd, quick_runs):
    path = sweep_file(tmp_path, TINY + "runs: [{method: trades}, {method: plain}]")
    begun = tmp_path / "out" / "plain" / "seed-0"
    write_config(begun, recipe("digits-resnet", "plain").to_dict())
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr()
    assert said.err == (
        f"dat sweep: {begun} holds a run with batch_size 64, and the sweep wants 16; use another --out, or take that run away\n"
    )
    assert not (tmp_path / "out" / "trades").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_run_save_and_the_same_command_goes_on(tmp_path, capfd, quick_runs, number, code):
    """The terminal's Ctrl+C goes to the sweep alone, which passes on what it has received."""
    path = sweep_file(tmp_path, TINY + "runs: [{name: slow, method: plain}, {method: plain}]")
    words = ["sweep", str(path), "--out", str(tmp_path / "out")]
    config = tmp_path / "out" / "slow" / "seed-0" / "config.json"
    with sent_when(config.exists, number):
        assert main(words) == code
    said = capfd.readouterr()
    assert "[1/2] slow, seed 0: stopped" in said.out and "[2/2]" not in said.out and not said.err
    assert f"stopped by a signal; go on with: dat sweep {path} --out" in said.out
    assert main(words) == 0
    assert "[1/2] slow, seed 0: goes on\n" in capfd.readouterr().out


def test_a_time_limit_stops_and_saves_as_asked(tmp_path, capfd, quick_runs, monkeypatch):
    path = sweep_file(tmp_path, TINY + "runs: [{name: slow, method: plain}, {method: plain}]")
    begun = tmp_path / "out" / "slow" / "seed-0" / "config.json"
    monkeypatch.setattr(sweeping, "Stop", partial(Stop, clock=lambda: 2.0 * begun.exists()))
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--time-limit", "1s"]) == 0
    said = capfd.readouterr().out
    assert "[1/2] slow, seed 0: stopped" in said and "stopped by the time limit; go on with: dat sweep" in said


def test_a_run_that_another_process_still_trains_is_waited_for(tmp_path, capfd, quick_runs, monkeypatch):
    """As one that a killed sweep has left behind, until it has saved."""
    path = sweep_file(tmp_path, TINY + "runs: [{method: plain}]")
    (begun,) = read_sweep(path).runs
    folder = tmp_path / "out" / begun.folder
    write_config(folder, begun.recipe.to_dict())
    lock, says = RunLock(folder), Progress.ends

    def ends(progress, number, run, what):
        says(progress, number, run, what)
        if "is still being trained" in what:
            lock.release()

    monkeypatch.setattr(Progress, "ends", ends)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capfd.readouterr()
    assert [line for line in said.out.splitlines() if line.startswith("[") and ": epoch " not in line] == [
        f"[1/1] plain, seed 0: is still being trained by process {os.getpid()}; waits until that has ended",
        "[1/1] plain, seed 0: goes on",
        "[1/1] plain, seed 0: done",
    ]
    assert not said.err and holder_of(folder) is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says when a parent ends")
def test_a_run_ends_with_its_killed_sweep(tmp_path):
    """It would train on, and stand in the way of the sweep that is started again."""
    run = (
        "import time; from dat.cli.main import quiet_signals, obey_starter\n"
        "with quiet_signals():\n    obey_starter(); print('begun', flush=True); time.sleep(60)"
    )
    sweep = (
        "import sys, pathlib; from dat.sweep.training_process import TrainingProcess\n"
        "process = TrainingProcess(run_dir=pathlib.Path(sys.argv[1]), program=(sys.executable, '-c', sys.argv[2]))\n"
        "child = process.start(); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", sweep, str(tmp_path / "run"), run], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        log = tmp_path / "run.log"
        wait_until(lambda: log.exists() and "begun" in log.read_text())
        parent.kill()
    wait_until(lambda: not running(child))


def test_from_python(tmp_path, quick_runs):
    result = dat.sweep.run_sweep(
        sweep_file(tmp_path, TINY + "runs: [{method: plain}, {name: bad, method: plain}]"), out=str(tmp_path / "out")
    )
    assert (result.ending, list(result.failed)) == ("finished", ["bad/seed-0"])
    assert result.comparison.runs[0].accuracy["pgd20"].mean == 40.0
    with pytest.raises(UserError, match="run_sweep starts what is missing"):
        dat.sweep.run_sweep(tmp_path / "small.yaml", out=str(tmp_path / "out"), dry_run=True)


@pytest.mark.slow
def test_a_real_run_that_was_stopped_half_way_before(tmp_path, capfd, monkeypatch):
    """As `dat train` alone begins it, and as the sweep ends it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = sweep_file(tmp_path, TINY + "runs: [{method: pgd-at}]")
    (begun,) = read_sweep(path).runs
    own = tmp_path / "recipe.json"
    own.write_text(json.dumps(begun.recipe.to_dict()))
    run = tmp_path / "out" / begun.folder
    assert main(["train", "--config", str(own), "--run-dir", str(run), "--device", "cpu", "--max-steps", "3"]) == 0
    (run / "summary.json").unlink()
    capfd.readouterr()
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capfd.readouterr().out
    assert "[1/1] pgd-at, seed 0: goes on" in said and "[1/1] pgd-at, seed 0: epoch 2 of 2, loss " in said
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 4 and json.loads((run / "summary.json").read_text())["ending"] == "finished"
    assert set(json.loads((tmp_path / "out" / "comparison.json").read_text())["attacks"]) == {"natural", "fgsm"}
