"""The CPU targets of the training step: DAT against the eager steps of published code, and against PGD-AT in this engine.

Four subjects take their steps in one process, in turn: `dat` and `pgd-at` of this engine (cifar10-resnet18, bf16), and
the eager float32 steps of `dat.profiling.baselines` (55 and 23 forward-equivalents). Random images through the resident loader,
augmentation included. A ratio is the median of the rounds' ratios; it is what may be quoted, times belong to the machine.
The exit code is 1 when a target is missed.

    python -m bench.step_time                      # ResNet-18 of the published width, batch 32
    python -m bench.step_time --rounds 9 --json bench/results/step_time_cpu.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dat.profiling.subjects import WarmSubject, eager_subjects, engine_subject
from dat.recipes import ModelSettings, Recipe, recipe
from dat.training.build import build_method
from dat.training.data import TrainingData
from dat_engine.data import Augmentation, ImageArrays, ResidentLoader
from dat_engine.model.precision import Precision
from dat_engine.profile.timing import Timing, time_in_turn, time_ratio
from dat_engine.run.environment import describe_environment

BATCHES = 4
DEVICE = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A bound on the step time of `slower` over that of `faster`."""

    what: str
    slower: str
    faster: str
    at_least: float | None = None
    at_most: float | None = None

    def ratio(self, timings: Mapping[str, Timing]) -> float:
        return time_ratio(timings[self.slower], timings[self.faster])

    def met_by(self, ratio: float) -> bool:
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)

    @property
    def bound(self) -> str:
        return f"at least {self.at_least:.2f}" if self.at_least is not None else f"at most {self.at_most:.2f}"


TARGETS = (
    Target(what="eager DAT (55F, fp32) / DAT", slower="eager dat", faster="dat", at_least=3.0),
    Target(what="DAT / eager PGD-AT-10 (23F, fp32)", slower="dat", faster="eager pgd-at", at_most=1.0),
    Target(what="DAT / PGD-AT-10 of this engine", slower="dat", faster="pgd-at", at_most=1.6),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps of each subject per round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage; targets are for 64")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"], help="of this engine's steps")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args(arguments)
    if min(flags.rounds, flags.steps) < 1:
        parser.error("--rounds and --steps must be at least 1")
    if flags.json and not flags.json.parent.is_dir():
        parser.error(f"--json {flags.json} lies in a directory that does not exist")
    entries = subjects(flags.batch_size, flags.width, flags.precision)
    timings = time_in_turn(
        [entry.subject for entry in entries],
        DEVICE,
        rounds=flags.rounds,
        steps={entry.subject.name: flags.steps for entry in entries},
        on_round=lambda index: print(f"round {index + 1} of {flags.rounds}", file=sys.stderr, flush=True),
    )
    print(
        f"ResNet-18 of width {flags.width}, batch {flags.batch_size}, CPU, {torch.get_num_threads()} threads, ", end=""
    )
    print(f"{flags.rounds} rounds of {flags.steps} steps")
    for entry in entries:
        timing = timings[entry.subject.name]
        shortest = min(timing.seconds) / timing.steps
        print(
            f"  {entry.subject.name:14} {entry.precision.name}  {timing.step_seconds:8.3f} s median {shortest:8.3f} s min"
        )
    results = verdicts(timings)
    for result in results:
        mark = "met" if result["met"] else "MISSED"
        print(f"  {result['what']:36} {result['ratio']:6.2f}   {result['bound']:14} {mark}")
    if flags.json:
        flags.json.write_text(json.dumps(record(flags, timings, results), indent=2) + "\n")
    return 0 if all(result["met"] for result in results) else 1


def subjects(batch_size: int, width: int, precision: str) -> list[WarmSubject]:
    """All four, warm, each with its own loader of the same random images."""
    recipes = [
        replace(
            recipe("cifar10-resnet18", method),
            batch_size=batch_size,
            model=ModelSettings(name="resnet18", width=width),
            precision=Precision(name=precision, channels_last=True),
        )
        for method in ("dat", "pgd-at")
    ]

    engine = [engine_subject(each, random_data, DEVICE) for each in recipes]
    return [*engine, *eager_subjects(recipes[0], random_data, DEVICE)]


def random_data(values: Recipe) -> TrainingData:
    """A few batches of smooth random images in CIFAR's shape, fed as the recipe feeds its data."""
    generator = torch.Generator().manual_seed(0)
    count = BATCHES * values.batch_size
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    arrays = ImageArrays(
        images=(255 * images).to(torch.uint8),
        targets=torch.randint(0, 10, (count,), generator=generator),
        class_names=tuple("0123456789"),
    )
    loader = ResidentLoader(
        arrays,
        batch_size=values.batch_size,
        augmentation=Augmentation(padding=values.data.padding, flip=values.data.flip),
        seed=values.seed,
        device=DEVICE,
    )
    return TrainingData(loader=loader, method=build_method(values, arrays), train=arrays, validation=None)


def verdicts(timings: Mapping[str, Timing]) -> list[dict[str, Any]]:
    """Every target with its ratio and whether it is met."""
    results = []
    for target in TARGETS:
        ratio = target.ratio(timings)
        results.append({"what": target.what, "ratio": ratio, "bound": target.bound, "met": target.met_by(ratio)})
    return results


def record(flags: argparse.Namespace, timings: Mapping[str, Timing], results: list[dict[str, Any]]) -> dict[str, Any]:
    """What --json writes."""
    settings = {name: value for name, value in vars(flags).items() if name != "json"}
    return {
        "command": "python -m bench.step_time",
        "settings": settings,
        "environment": describe_environment(),
        "threads": torch.get_num_threads(),
        "targets": results,
        "step_seconds": {name: timing.step_seconds for name, timing in timings.items()},
        "round_seconds": {name: timing.seconds for name, timing in timings.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
