"""A run that is killed anywhere goes on, and leaves what one leaves that never was; one that diverges says how to go on."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from math import nan
from pathlib import Path

import pytest

from dat.cli import main
from dat.methods.plain.method import PlainMethod
from dat_engine.run.checkpoint import load

TINY = [
    *("--limit-train", "320", "--batch-size", "16", "--model.width", "4", "--data.validation", "20", "--epochs", "2"),
    *("--evaluation.attacks", "natural", "--evaluation.limit", "10", "--device", "cpu", "--progress", "silent"),
    *("--checkpoint.every", "1", "--log-every", "3"),
]
CLOCKS = {"seconds", "images_per_second"}


def rows(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCKS} for line in lines]


def last(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_equals_never_killed(tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(["train", "digits-resnet", *TINY, "--run-dir", str(whole)]) == 0
    moments = random.Random(0)
    words = ["digits-resnet", *TINY]
    killed = 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-m", "dat", "train", *words, "--run-dir", str(run)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        known = set((run / "checkpoints").glob("step-*")) if run.exists() else set()
        while process.poll() is None and not set((run / "checkpoints").glob("step-*")) - known:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.8))
        if killed < 6 and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        _, error = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error.decode()
        words = ["--resume"]
    assert killed >= 3 and process.returncode == 0
    assert rows(run) == rows(whole)
    one, other = (load(last(path))["training"]["model"] for path in (run, whole))
    assert all((one[name] == other[name]).all() for name in one)
    assert not list(run.rglob("*.partial"))


def test_a_run_that_diverges_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    words = [
        "digits-resnet",
        "--method",
        "plain",
        *TINY,
        "--limit-train",
        "352",
        "--data.validation",
        "0",
        "--epochs",
        "1",
    ]
    with monkeypatch.context() as patch:
        real = PlainMethod.losses
        patch.setattr(
            PlainMethod, "losses", lambda self, joint: {name: term * nan for name, term in real(self, joint).items()}
        )
        assert main(["train", *words, "--run-dir", str(run)]) == 1
    written = capsys.readouterr().err
    assert "20 steps in a row were skipped" in written and "Traceback" not in written
    (advice,) = re.findall(r"dat (train --resume --run-dir \S+ --optimizer\.learning-rate \S+)$", written.strip())
    assert rows(run)[-1] == {"step": 20, "epoch": 1, "ending": "non-finite"}
    assert load(last(run))["training"]["guard"]["consecutive"] == 0
    assert main(advice.split()) == 0
    assert json.loads((run / "config.json").read_text())["recipe"]["optimizer"]["learning_rate"] == 0.075
