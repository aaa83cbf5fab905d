"""Sweeps through submitit: its local executor, and its Slurm executor before commands that stand in for Slurm's."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from dat.cli import main
from dat.sweep import read_sweep, training_process
from dat_engine.errors import UserError
from tests.dat import quick_run

SWEEP = """
recipe: digits-resnet
runs: [{method: plain}, {name: bad, method: plain}]
options: {device: cpu}
"""
needs_submitit = pytest.mark.usefixtures("submitit")


@pytest.fixture
def submitit():
    return pytest.importorskip("submitit", reason="these executors are submitit's: pip install 'dat-engine[sweep]'")


@pytest.fixture(autouse=True)
def quick_runs(monkeypatch):
    monkeypatch.setattr(training_process, "TRAIN", (sys.executable, "-S", quick_run.__file__))


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return path


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(ready, seconds: float = 60.0):
    """What `ready` returns once that is something."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@needs_submitit
def test_the_local_executor_runs_as_many_at_a_time_as_asked(file, capfd):
    out = file.parent / "out"
    assert main(["sweep", str(file), "--out", str(out), "--executor", "local", "--jobs", "2"]) == 1
    said = capfd.readouterr()
    assert said.out.index("[2/2] bad, seed 0: begins") < said.out.index("[1/2] plain, seed 0: done")
    why = f"the disk is full; free some of it ({out}/bad/seed-0.log)"
    assert said.err.splitlines() == [f"dat sweep: bad/seed-0 failed: {why}"]
    assert "| plain | 90.0 | 40.0 | 1.00 | 1.00x | 1 |" in (out / "comparison.md").read_text()


@needs_submitit
def test_every_local_run_has_a_gpu_of_its_own(file, tmp_path):
    from dat.sweep.submitted import LocalExecutor

    executor = LocalExecutor(tmp_path / "submitit", jobs=None, gpus=("3", "GPU-5a"))
    assert executor.jobs == 2
    (run, _) = read_sweep(file).runs
    processes = [training_process.TrainingProcess(run_dir=tmp_path / "plain" / f"seed-{seed}") for seed in range(2)]
    jobs = []
    for process in processes:
        process.prepare(run.recipe)
        jobs.append(executor.start(process))
    assert [wait_until(lambda job=job: job.exit_code() is not None) for job in jobs] == [True, True]
    assert [process.log.read_text().split()[-1] for process in processes] == ["3", "GPU-5a"]


@needs_submitit
def test_a_job_that_is_preempted_is_queued_anew_and_goes_on(tmp_path, file):
    """The signal is that of Slurm before it takes a job's node away, and before a job's time is up."""
    from dat.sweep.submitted import LocalExecutor

    process = training_process.TrainingProcess(run_dir=tmp_path / "slow" / "seed-0")
    process.prepare(read_sweep(file).runs[0].recipe)
    executor = LocalExecutor(tmp_path / "submitit", jobs=1, gpus=())
    job = executor.start(process)
    wait_until((process.run_dir / "config.json").exists)
    (controller,) = [
        pid for pid in children(os.getpid()) if "submitit.local" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    (task,) = children(controller)
    os.kill(task, signal.SIGUSR2)
    assert wait_until(lambda: job.exit_code() is not None)
    assert (job.exit_code(), job.trouble()) == (0, None)
    begun, resumed = process.log.read_text().splitlines()
    assert "--config" in begun and "--resume" in resumed


@needs_submitit
def test_a_stopped_job_saves(tmp_path, file):
    from dat.sweep.submitted import LocalExecutor

    process = training_process.TrainingProcess(run_dir=tmp_path / "slow" / "seed-0")
    process.prepare(read_sweep(file).runs[0].recipe)
    job = LocalExecutor(tmp_path / "submitit", jobs=1, gpus=()).start(process)
    wait_until((process.run_dir / "config.json").exists)
    job.stop(signal.SIGINT)
    assert wait_until(lambda: job.exit_code() is not None) and job.exit_code() == 143


FAKE_SLURM = {
    # starts what it is given at once, and leaves its script where the test finds it
    "sbatch": 'cp "$1" "$FAKE_SLURM/$$.sh"\nSLURM_JOB_ID=$$ SLURM_NTASKS=1 bash "$1" >/dev/null 2>&1 &\n'
    'echo "Submitted batch job $$"',
    "srun": 'while [ "$1" != "-u" ]; do previous=$1; shift; done\nexec "$previous" "$@"',
    "sacct": "echo 'JobID|State|NodeList'",
    "scancel": "exit 0",
}


@pytest.fixture
def fake_slurm(submitit, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in FAKE_SLURM.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


def test_a_slurm_job_for_each_run_with_the_parameters_of_the_file(file, fake_slurm, capfd):
    out = file.parent / "out"
    file.write_text(SWEEP + "slurm: {partition: a100, time: 1h30m, gpus_per_node: 1, account: robust}\n")
    assert main(["sweep", str(file), "--out", str(out), "--executor", "slurm"]) == 1
    said = capfd.readouterr()
    assert "[1/2] plain, seed 0: done" in said.out and "bad/seed-0 failed: the disk is full" in said.err
    scripts = [path.read_text().splitlines() for path in fake_slurm.glob("*.sh")]
    assert len(scripts) == 2
    for wanted in (
        "partition=a100",
        "time=90",
        "gpus-per-node=1",
        "account=robust",
        "job-name=small",
        "signal=USR2@90",
    ):
        assert all(f"#SBATCH --{wanted}" in script for script in scripts), wanted


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ("{partition: a100}", "the group slurm names no time; add how long a job may last, such as time: 4h"),
        ("{time: long}", "'long' is not a duration"),
        ("{time: 4h, partion: a}", "the group slurm is not what submitit takes: Unavailable parameter(s): ['partion']"),
    ],
)
def test_a_wrong_slurm_group_is_one_sentence(file, fake_slurm, capfd, group, sentence):
    file.write_text(SWEEP + f"slurm: {group}\n")
    assert main(["sweep", str(file), "--out", str(file.parent / "out"), "--executor", "slurm"]) == 2
    said = capfd.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1 and not (file.parent / "out").exists()


@needs_submitit
def test_no_slurm_and_no_submitit_are_said(file, capfd, monkeypatch):
    words = ["sweep", str(file), "--out", str(file.parent / "out"), "--executor"]
    file.write_text(SWEEP + "slurm: {time: 4h}\n")
    monkeypatch.setenv("PATH", str(file.parent))
    assert main([*words, "slurm"]) == 2
    assert "there is no Slurm here (no srun on the PATH)" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main([*words, "local"]) == 2
    assert "which is not installed: pip install 'dat-engine[sweep]'" in capfd.readouterr().err


def test_one_gpu_for_all_is_not_what_the_local_executor_does():
    from dat.sweep.submitted import visible_gpus

    with pytest.raises(UserError, match="gives each run a GPU of its own; use --device cuda, not cuda:1"):
        visible_gpus("cuda:1")
    assert visible_gpus("cpu") == ()
