"""`dat train` killed by SIGKILL and resumed by the command line: nothing twice, nothing left out, an evaluated end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.gpu_acceptance.launch import ROOT
from bench.gpu_acceptance.made_up_cifar import missing_for_training
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting

GATE = "kill -9: a run by the command line is resumed from its newest checkpoint"
STEPS_AFTER = 4


def run(setting: Setting, record: Recorder) -> None:
    reason = missing_for_training()
    if reason is not None:
        record.skipped(GATE, reason)
        return
    with record.gate(GATE) as notes:
        notes.text = kill_and_resume(setting)


def kill_and_resume(setting: Setting) -> str:
    folder = setting.work / "killed"
    limit = max(20.0, setting.time_left - 5)
    process = _start(first_words(setting, folder), setting, folder)
    try:
        checkpoints = _wait_for_checkpoints(process, folder, limit / 2)
    finally:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    require(code == -signal.SIGKILL, f"the run had ended by itself, with exit code {code}; {_last_words(folder)}")
    newest = max(_step_of(path) for path in checkpoints)
    until = newest + STEPS_AFTER
    words = ["train", "--resume", "--run-dir", str(folder), "--max-steps", str(max(until, _logged(folder) + 1))]
    code = _start(words, setting, folder).wait(timeout=limit / 2)
    require(code == 0, f"the resumed run ended with exit code {code}; {_last_words(folder)}")
    steps = [row["step"] for row in _rows(folder) if "epoch_loss" not in row]
    require(steps == sorted(set(steps)), f"the resumed run logged the steps {steps}")
    require(steps and steps[-1] >= until, f"the resumed run ended at step {steps[-1:]}; asked for {until}")
    accuracy = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["accuracy"]
    require(set(accuracy) == {"natural"}, f"the evaluation gave {accuracy}")
    return f"killed after the checkpoint of step {newest}, resumed to step {steps[-1]}"


def first_words(setting: Setting, folder: Path) -> list[str]:
    words = ["train", "cifar10-resnet18", "--run-dir", str(folder), "--device", str(setting.device)]
    words += ["--model.name", "resnet8", "--model.width", str(setting.pick(16, 4)), "--batch-size", "4"]
    words += ["--limit-train", str(setting.pick(64, 8)), "--data.validation", "8", "--epochs", "100000"]
    words += ["--evaluation.attacks", "natural", "--evaluation.limit", "8", "--log-every", "1"]
    words += setting.pick([], ["--dat.steps", "1"])
    return words


def _start(words: list[str], setting: Setting, folder: Path) -> subprocess.Popen[bytes]:
    log = folder.with_name("kill_resume_runs.log")
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "bench.gpu_acceptance.made_up_cifar", *words, "--progress", "plain"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def _wait_for_checkpoints(process: subprocess.Popen[bytes], folder: Path, seconds: float) -> list[Path]:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and process.poll() is None:
        found = list((folder / "checkpoints").glob("step-*.safetensors"))
        if len(found) >= 2:
            return found
        time.sleep(0.02)
    found = list((folder / "checkpoints").glob("step-*.safetensors"))
    require(found, f"no checkpoint within {seconds:.0f} s; {_last_words(folder)}")
    return found


def _step_of(path: Path) -> int:
    return int("".join(character for character in path.stem if character.isdigit()))


def _rows(folder: Path) -> list[dict[str, float]]:
    rows = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # half a line, where the run was killed
            continue
    return rows


def _logged(folder: Path) -> int:
    return max((int(row["step"]) for row in _rows(folder)), default=0)


def _last_words(folder: Path) -> str:
    log = folder.with_name("kill_resume_runs.log")
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-4:]) if log.exists() else ""
