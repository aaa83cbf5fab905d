"""What ends or refuses in one of many processes, or in the launcher above them, leaves none of them waiting."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engine.run.test_distributed import ROOT, TINY, TORCHRUN, children_by_rank, environment, run, train

pytestmark = pytest.mark.slow


def test_what_one_process_refuses_all_refuse_with_its_sentence(tmp_path):
    prefix = str(tmp_path / "rank")
    result = run([*TORCHRUN, str(Path(__file__).with_name("refusing_worker.py")), prefix])
    assert result.returncode == 0, result.stderr[-3000:]
    answers = [Path(f"{prefix}{rank}").read_text() for rank in range(2)]
    assert answers[0] == answers[1] and "labels range from" in answers[0]


def folder_of_pictures(root: Path, damaged: str) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 8)):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (root / damaged).write_bytes(b"no image")


def test_a_damaged_file_that_one_process_meets_ends_all_with_its_sentence(tmp_path):
    folder_of_pictures(tmp_path / "data" / "pets", "train/dog/17.png")
    flags = [
        *(
            "imagefolder",
            "--data-root",
            str(tmp_path / "data" / "pets"),
            "--data.image-size",
            "16",
            "--data.resize",
            "16",
        ),
        *("--data.loader", "torchvision", "--data.workers", "0", "--data.validation", "0", "--batch-size", "8"),
        *("--model.name", "resnet8", "--model.width", "4", "--epochs", "3", "--device", "cpu", "--progress", "plain"),
        *("--precision.name", "fp32", "--method", "pgd-at", "--run-dir", str(tmp_path / "run")),
    ]
    result = run([*TORCHRUN, "-m", "dat", "train", *flags])  # long before one has waited for the other in vain
    assert result.returncode != 0
    assert result.stderr.count("17.png is damaged") == 1, result.stderr[-3000:]  # one process says so


def test_the_workers_of_a_killed_torchrun_save_and_end(tmp_path):
    path = tmp_path / "run"
    command = [*TORCHRUN, "-m", "dat", "train", *TINY, "--epochs", "2000", "--run-dir", str(path)]
    with (tmp_path / "out").open("w") as output:
        launcher = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=output, stderr=output)
        workers: dict[str, int] = {}
        try:
            deadline = time.monotonic() + 120
            while not list((path / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
                time.sleep(0.1)
            workers = children_by_rank(launcher.pid)
            assert set(workers) == {"0", "1"}
            launcher.kill()
            launcher.wait()
            deadline = time.monotonic() + 60
            while any(Path(f"/proc/{pid}").exists() for pid in workers.values()) and time.monotonic() < deadline:
                time.sleep(0.1)
            alive = [pid for pid in workers.values() if Path(f"/proc/{pid}").exists()]
        finally:
            launcher.kill()
            for pid in workers.values():
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)
    said = (tmp_path / "out").read_text()
    assert not alive, said[-3000:]
    assert f"go on with: dat train --resume --run-dir {path}" in said
    # saved where it stopped: no row lies beyond the newest checkpoint
    last = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()][-1]
    newest = max(int(file.stem.split("-")[1]) for file in (path / "checkpoints").glob("step-*.safetensors"))
    assert newest >= last["step"]
    resumed = train(path, "--epochs", "2000", "--resume", "--time-limit", "0.01s", processes=2)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
