"""`dat train` killed by SIGKILL and resumed by the command line: nothing twice, nothing left out, an evaluated end.

tests/dat/test_kills.py holds the same bits on the CPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu_acceptance.made_up_cifar import missing_for_training
from tests.conftest import device_or_skip

ROOT = Path(__file__).parents[2]
SIZES = {"cpu": ("4", "8", "--dat.steps", "1"), "cuda": ("16", "64")}
"""Width of the network, training images, and further flags."""
STEPS_AFTER = 4
SECONDS = 120
"""For each of the two commands."""


class Command:
    """Starts `dat` on made-up images of CIFAR-10's kind, and keeps what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder.with_name("said.log")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bench.gpu_acceptance.made_up_cifar", "train", *words]
        command += ["--run-dir", str(self.folder), "--progress", "plain"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as file:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def last_words(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-4:])

    def checkpoints(self) -> list[Path]:
        return list((self.folder / "checkpoints").glob("step-*.safetensors"))

    def rows(self) -> list[dict[str, float]]:
        rows = []
        for line in (self.folder / "metrics.jsonl").read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # half a line, where the run was killed
                continue
        return rows


@pytest.mark.gate("kill -9: a run by the command line is resumed from its newest checkpoint")
@pytest.mark.parametrize(
    "where", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_a_run_by_the_command_line_is_resumed_from_its_newest_checkpoint(where, tmp_path, record_property):
    missing = missing_for_training()
    if missing is not None:
        pytest.skip(missing)
    device_or_skip(where)
    command, (width, images, *more) = Command(tmp_path / "run"), SIZES[where]
    words = ["cifar10-resnet18", "--device", where, "--model.name", "resnet8", "--model.width", width, *more]
    words += ["--limit-train", images, "--batch-size", "4", "--data.validation", "8", "--epochs", "100000"]
    words += ["--evaluation.attacks", "natural", "--evaluation.limit", "8", "--log-every", "1"]
    process = command.start(*words)
    try:
        ends = time.monotonic() + SECONDS
        while len(command.checkpoints()) < 2 and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert code == -signal.SIGKILL and command.checkpoints(), command.last_words()
    newest = max(int("".join(filter(str.isdigit, path.stem))) for path in command.checkpoints())
    logged = max((int(row["step"]) for row in command.rows()), default=0)
    until = newest + STEPS_AFTER
    process = command.start("--resume", "--max-steps", str(max(until, logged + 1)))
    try:
        assert process.wait(timeout=SECONDS) == 0, command.last_words()
    finally:
        process.kill()
    steps = [row["step"] for row in command.rows() if "epoch_loss" not in row]
    assert steps == sorted(set(steps)), "a step is logged twice"
    assert steps[-1] >= until
    accuracy = json.loads((tmp_path / "run" / "summary.json").read_text())["accuracy"]
    assert set(accuracy) == {"natural"}
    record_property("note", f"killed after the checkpoint of step {newest}, resumed to step {steps[-1]}")
