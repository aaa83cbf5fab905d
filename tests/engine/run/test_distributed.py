"""Two gloo processes on this machine, started by torchrun as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dat_engine.distributed import Processes, ProcessesError

WORKER = Path(__file__).parent / "synchronised_worker.py"
ROOT = Path(__file__).parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TINY = [
    *("digits-resnet", "--limit-train", "64", "--batch-size", "16", "--model.width", "4", "--data.validation", "21"),
    *("--evaluation.limit", "21", "--evaluation.attacks", "natural,pgd20", "--device", "cpu"),
    *("--progress", "plain", "--log-every", "1"),
]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=240)


def worker(tmp_path: Path, processes: int, update: str, precision: str) -> dict:
    output = tmp_path / f"{processes}.pt"
    launcher = [sys.executable] if processes == 1 else TORCHRUN
    result = run([*launcher, str(WORKER), str(output), update, precision])
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(output, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "precision", "tolerance"),
    # float64 proves the mathematics; in float32 sums are taken in another order and three steps of sign ascent amplify it
    [("joint", "fp64", 1e-9), ("alternating", "fp64", 1e-9), ("joint", "fp32", 1e-3)],
)
def test_two_synchronised_processes_equal_one_with_twice_the_batch(tmp_path, update, precision, tolerance):
    alone, together = (worker(tmp_path, count, update, precision) for count in (1, 2))
    assert together["losses"] == pytest.approx(alone["losses"], rel=tolerance)
    for name, value in alone["state"].items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(together["state"][name], value, rtol=tolerance, atol=tolerance, msg=name)
    assert together["collectives"]["rest"] > 0
    assert together["collectives"]["attack"] == 0


def train(run_dir: Path, *flags: str, processes: int = 1) -> subprocess.CompletedProcess:
    launcher = [sys.executable] if processes == 1 else TORCHRUN
    return run([*launcher, "-m", "dat", "train", *TINY, "--run-dir", str(run_dir), *flags])


def epochs(run_dir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "epoch_loss" in row]


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_resumes_on_one(tmp_path):
    first = train(tmp_path / "run", "--epochs", "2", "--max-steps", "3", processes=2)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "processes 2" in first.stdout
    second = train(tmp_path / "run", "--epochs", "2", "--resume")
    assert second.returncode == 0, second.stderr[-3000:]
    assert [row["epoch"] for row in epochs(tmp_path / "run")] == [1, 2]
    # epoch 1 had 2 steps of 2 x 16 images; one process does epoch 2 from its half, 2 of 4 steps
    assert [row["step"] for row in epochs(tmp_path / "run")] == [2, 5]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_images"] == 21


@pytest.mark.slow
def test_a_checkpoint_of_one_process_resumes_on_two(tmp_path):
    first = train(tmp_path / "run", "--epochs", "2", "--max-steps", "4")
    assert first.returncode == 0, first.stderr[-3000:]
    second = train(tmp_path / "run", "--epochs", "2", "--resume", processes=2)
    assert second.returncode == 0, second.stderr[-3000:]
    assert [row["step"] for row in epochs(tmp_path / "run")] == [4, 6]
    assert (tmp_path / "run" / "summary.json").exists()


def children_by_rank(launcher: int) -> dict[str, int]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            variables = dict(
                item.split("=", 1) for item in (entry / "environ").read_text().split("\0") if item.count("=")
            )
        except (OSError, ValueError):
            continue
        if parent == launcher and "RANK" in variables:
            found[variables["RANK"]] = int(entry.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes to kill in Linux's /proc")
def test_a_process_that_dies_ends_the_run_and_torchrun_restarts_it(tmp_path):
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "dat", "train", *TINY, "--epochs", "12"]
    with (tmp_path / "out").open("w") as output:
        process = subprocess.Popen(
            [*command, "--run-dir", str(tmp_path / "run")], env=environment(), cwd=ROOT, stdout=output, stderr=output
        )
        try:
            deadline = time.monotonic() + 120
            while not list((tmp_path / "run" / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
                time.sleep(0.1)
            os.kill(children_by_rank(process.pid)["1"], signal.SIGKILL)
            assert process.wait(timeout=180) == 0, (tmp_path / "out").read_text()[-3000:]
        finally:
            process.kill()
    text = (tmp_path / "out").read_text()
    assert [row["epoch"] for row in epochs(tmp_path / "run")] == list(range(1, 13))
    assert (tmp_path / "run" / "summary.json").exists()
    assert "which has died; go on from the newest checkpoint" in text or "Signal 9" in text


@pytest.mark.slow
def test_a_restart_does_not_take_up_the_run_of_another_command(tmp_path):
    assert train(tmp_path / "run", "--epochs", "1").returncode == 0
    before = (tmp_path / "run" / "summary.json").stat().st_mtime_ns
    restarted = [*TORCHRUN, "--max-restarts", "1", "-m", "dat", "train", *TINY, "--epochs", "1"]
    result = run([*restarted, "--run-dir", str(tmp_path / "run")])
    assert result.returncode != 0 and "already holds a run" in result.stderr
    assert (tmp_path / "run" / "summary.json").stat().st_mtime_ns == before


class _AnotherError(RuntimeError):
    """Stands for out of memory, a compiler's error and the like: this process's own."""


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo] anything at all"), True),
        (torch.distributed.DistBackendError("NCCL"), True),
        (torch.distributed.DistNetworkError("reset"), True),
        (_AnotherError("Connection of gloo and NCCL"), False),
        (ValueError("Connection"), False),
    ],
)
def test_a_lost_process_is_known_by_type_and_not_by_words(error, lost):
    with pytest.raises(ProcessesError if lost else type(error)), Processes(rank=0, world_size=2).exchanging():
        raise error
    with pytest.raises(type(error)) as alone, Processes().exchanging():
        raise error
    assert alone.value is error
