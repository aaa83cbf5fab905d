"""Runs that are killed, signalled and resumed, as a scheduler does it, end as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dat_engine.run.checkpoint import load

ROOT = Path(__file__).parents[2]
TINY = [
    *("--limit-train", "64", "--batch-size", "16", "--model.width", "4", "--data.validation", "40"),
    *("--evaluation.batch-size", "10", "--evaluation.attacks", "natural,pgd20", "--evaluation.limit", "40"),
    *("--device", "cpu", "--progress", "plain", "--log-every", "2"),
]
SPEAKING = """
import importlib, sys, time
from dat_engine.run.trainer import Trainer
from dat.cli import program

def speaking(function, word):
    def spoken(*arguments, **keywords):
        print(word, flush=True)
        time.sleep(0.3)
        return function(*arguments, **keywords)
    return spoken

evaluation = importlib.import_module("dat.evaluation.evaluate")
evaluation._predicted = speaking(evaluation._predicted, "(evaluating)")
Trainer._asked_to_stop = speaking(Trainer._asked_to_stop, "(step)")
program()
"""


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def timeless(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


def assert_same_run(run: Path, whole: Path) -> None:
    assert timeless(run) == timeless(whole)
    summaries = [json.loads((path / "summary.json").read_text())["accuracy"] for path in (run, whole)]
    assert summaries[0] == summaries[1]
    newest = [max((path / "checkpoints").glob("step-*.safetensors")) for path in (run, whole)]
    assert newest[0].name == newest[1].name
    models = [load(path, device="cpu")["training"]["model"] for path in newest]
    for name, value in models[1].items():
        assert torch.equal(models[0][name], value), name


def killed(run: Path, kills: int, *flags: str) -> int:
    command = [
        sys.executable,
        str(Path(__file__).with_name("killed_twenty_times.py")),
        str(run),
        str(kills),
        *TINY,
        *flags,
    ]
    ran = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-3000:]
    return int(ran.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_twenty_kills_change_no_bit(tmp_path):
    assert killed(tmp_path / "whole", 0, "--epochs", "12") == 0
    assert killed(tmp_path / "run", 20, "--epochs", "12") >= 5
    assert_same_run(tmp_path / "run", tmp_path / "whole")


class Run:
    """A `dat train` that says what it does, to be signalled when it says a word."""

    def __init__(self, run: Path, *flags: str) -> None:
        command = [sys.executable, "-c", SPEAKING, "train", "digits-resnet", *TINY, "--run-dir", str(run), *flags]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def signalled(
        self, word: str, number: int, *, group: bool = False, again_after: float | None = None
    ) -> tuple[int, str]:
        """The exit code, and what was said after the first signal."""
        try:
            for line in self.process.stdout:
                if word in line:
                    break
            send = os.killpg if group else os.kill
            send(self.process.pid, number)
            if again_after is not None:
                time.sleep(again_after)
                send(self.process.pid, number)
            said, complaints = self.process.communicate(timeout=120)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        assert "Traceback" not in complaints, complaints
        return self.process.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "flags", "number", "group", "code"),
    [
        ("(step)", ["--epochs", "2"], signal.SIGINT, False, 130),
        ("(step)", ["--epochs", "2", "--data.loader", "torchvision", "--data.workers", "2"], signal.SIGTERM, True, 143),
        ("(evaluating)", ["--epochs", "2"], signal.SIGTERM, False, 143),
        ("(evaluating)", ["--epochs", "1", "--data.validation", "0"], signal.SIGTERM, True, 143),
    ],
    ids=["Ctrl+C in a step", "SIGTERM to step and workers", "SIGTERM in a validation", "SIGTERM in the evaluation"],
)
def test_one_signal_saves_at_once_and_costs_nothing(tmp_path, word, flags, number, group, code):
    run, whole = tmp_path / "run", tmp_path / "whole"
    found, said = Run(run, *flags).signalled(word, number, group=group)
    assert found == code, said
    assert f"go on with: dat train --resume --run-dir {run}" in said
    # the step or batch in hand, under at most two attacks, and no more
    assert said.count("(evaluating)") <= 2 and said.count("(step)") <= 1
    command = [sys.executable, "-m", "dat", "train"]
    for words in (["--resume", "--run-dir", str(run)], ["digits-resnet", *TINY, *flags, "--run-dir", str(whole)]):
        subprocess.run([*command, *words], cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)
    assert_same_run(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_ends_at_once(tmp_path, number, code):
    run = Run(tmp_path / "run", "--epochs", "1", "--evaluation.attacks", "natural")
    slow = run.signalled("(step)", number, again_after=0.0 if number == signal.SIGINT else 2.2)
    # where the first signal's work was over already, Python takes itself apart: a shell sees the same number
    assert slow[0] in (code, -number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_command_is_no_traceback(number):
    script = (
        "import atexit, time; from dat.cli import program\n"
        "atexit.register(lambda: (print('ending', flush=True), time.sleep(60)))\nprogram()"
    )
    command = [sys.executable, "-c", script, "--version"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "ending\n" in iter(process.stdout.readline, "")
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "") and process.returncode == 128 + number


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delay", [0.1, 0.6, 1.5])
def test_a_signal_in_the_imports_is_no_traceback(tmp_path, number, delay):
    command = [
        sys.executable,
        "-m",
        "dat",
        "train",
        "digits-resnet",
        *TINY,
        "--epochs",
        "1",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    # from where the command has taken the signals over: before that, the interpreter is starting
    script = (
        "import signal, sys\ntake = signal.signal\n"
        "def told(number, handler):\n    before = take(number, handler)\n"
        "    if number == signal.SIGINT: print('torch' in sys.modules, flush=True)\n    return before\n"
        "signal.signal = told\nfrom dat.cli import main\nsys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command[3:]],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "False\n"
    time.sleep(delay)
    process.send_signal(number)
    _, complaints = process.communicate(timeout=60)
    assert "Traceback" not in complaints and process.returncode in (128 + number, -signal.SIGTERM), complaints


def test_a_time_limit_holds_in_the_evaluation(tmp_path, capsys, monkeypatch):
    from dat.cli import main
    from dat_engine.run.stop import Stop

    words = ["train", "digits-resnet", *TINY, "--data.validation", "0", "--epochs", "1"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    # the limit is over once training is
    monkeypatch.setattr(Stop, "reason", property(lambda self: "time limit" if _evaluating() else None))
    assert main([*words, "--run-dir", str(run)]) == 0
    assert (
        "stopped by the time limit in the final evaluation; training is complete and saved" in capsys.readouterr().out
    )
    assert not (run / "summary.json").exists()
    monkeypatch.undo()
    assert main(["train", "--resume", "--run-dir", str(run)]) == 0
    assert main([*words, "--run-dir", str(whole)]) == 0
    assert_same_run(run, whole)


def _evaluating() -> bool:
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != "in_rounds":
        frame = frame.f_back
    return frame is not None
