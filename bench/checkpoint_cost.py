"""What checkpoints written beside training cost a step: `python -m bench.checkpoint_cost`.

One process; steps with a checkpoint under way and steps without alternate, so that whatever else the machine does meets both.
A checkpoint of `--every` steps costs one snapshot in the step's thread, and whatever its thread takes from the steps beside it.
The figure is the slow-down of a run that writes one checkpoint every so many steps against one that writes none.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from dat.recipes import recipe
from dat.training.build import build_method, build_model, build_step
from dat_engine.data import Augmentation, ImageArrays, ResidentLoader
from dat_engine.run.checkpoint import CheckpointFolder
from dat_engine.run.checkpoint_writer import CheckpointWriter
from dat_engine.run.interval import EPOCHS_ONLY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="steps per turn")
    parser.add_argument("--turns", type=int, default=8, help="of each kind")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    base = recipe("cifar10-resnet18", "pgd-at")
    base = replace(base, batch_size=arguments.batch_size, model=replace(base.model, width=arguments.width))
    images = ImageArrays(
        images=torch.randint(0, 256, (1024, 3, 32, 32), dtype=torch.uint8),
        targets=torch.arange(1024) % 10,
        class_names=tuple(map(str, range(10))),
    )
    model = build_model(base, 10, (3, 32, 32)).to(device)
    step = build_step(base, model, build_method(base, images))
    loader = ResidentLoader(
        images, batch_size=base.batch_size, augmentation=Augmentation(padding=4, flip=True), seed=0, device=device
    )
    batch = next(iter(loader.epoch(0)))
    for _ in range(2):
        step(batch)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    snapshots, writes = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = CheckpointFolder(Path(folder) / "checkpoints")
        writer = CheckpointWriter(checkpoints, EPOCHS_ONLY)
        for turn in range(2 * arguments.turns):
            writing = turn % 2 == 1
            started = time.perf_counter()
            if writing:
                writer.save({"training": step.state_dict()}, step=turn, epoch=0)
                snapshots.append(time.perf_counter() - started)
            for _ in range(arguments.steps):
                step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[writing].append((time.perf_counter() - started) / arguments.steps)
            writer.wait()
            if writing:
                writes.append(max(time.perf_counter() - started, 0.0))
        size = checkpoints.step_paths()[0].stat().st_size / 2**20
    plain, beside = (statistics.median(seconds[kind]) for kind in (False, True))
    extra = (beside - plain) * arguments.steps
    print(f"{size:.0f} MiB, {device}, {torch.get_num_threads()} thread(s)")
    print(f"step without {plain:.3f} s, with one checkpoint in {arguments.steps} steps {beside:.3f} s")
    print(f"snapshot {statistics.median(snapshots):.3f} s; one checkpoint costs the steps {extra:.3f} s in all")
    for every in (60.0, 600.0):
        print(f"one every {every / 60:.0f} min: {100 * extra / every:+.2f} %")


if __name__ == "__main__":
    main()
