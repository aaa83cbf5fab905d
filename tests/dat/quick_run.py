"""Stands in for ``dat train`` in tests of sweeps: leaves what a run leaves, in no time, and imports next to nothing.

What it does is its name's business: ``bad`` is refused; ``slow`` saves and ends when a signal comes, and is finished when it
is started again; every other one is finished.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def write_config(path: Path, recipe: dict, *, gpu: str | None = None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    hardware = {"cpu": "Abacus", "cores": 2, "gpu": gpu}
    (path / "config.json").write_text(json.dumps({"recipe": recipe, "run": {"device": None}, "hardware": hardware}))


def write_figures(path: Path, *, accuracy: dict[str, float], seconds: list[float]) -> None:
    """What the comparison reads of a run that is trained and evaluated."""
    rows = [{"step": 1, "epoch": 1, "loss": 2.0, "seconds": 0.5}]
    for epoch in range(1, len(seconds) + 1):
        rows.append({"epoch": epoch, "epoch_loss": 1.0, "seconds": sum(seconds[:epoch])})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "summary.json").write_text(json.dumps({"accuracy": accuracy, "test_images": 1000, "ending": "finished"}))


def train(words: list[str]) -> int:
    path = Path(words[words.index("--run-dir") + 1])
    print("started", *words, "on GPU", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    if path.parent.name == "bad":
        print("dat train: the disk is full; free some of it\n", file=sys.stderr)
        return 1
    if "--resume" not in words:
        told = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: told.append(received))
        write_config(path, json.loads(Path(words[words.index("--config") + 1]).read_text()))
        while path.parent.name == "slow":
            time.sleep(0.02)
            if told:
                return 128 + told[0]
    write_figures(path, accuracy={"natural": 90.0, "pgd20": 40.0}, seconds=[1.0, 1.0])
    return 0


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
