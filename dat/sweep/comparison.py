"""What the runs of a sweep come to beside each other: accuracy over seeds, and what an epoch of each costs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dat.recipes import field_at
from dat.sweep.file import Sweep
from dat.sweep.run_folder import epoch_rows, read_object, refuse_others, state_of
from dat_engine.errors import UserError
from dat_engine.run.durable_file import replacing


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure over seeds."""

    values: tuple[float, ...]
    """One for each seed."""
    mean: float
    deviation: float | None
    """Standard deviation of the sample (n - 1); None of a single seed."""

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure | None:
        """None where there are no values."""
        values = tuple(values)
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(values=values, mean=statistics.fmean(values), deviation=deviation)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFigures:
    """The seeds of one run, as far as they are finished."""

    name: str
    recipe: str
    method: str
    epochs: int
    seeds: tuple[int, ...]
    """Those that are finished."""
    accuracy: Mapping[str, Figure]
    """Percent on the test images, by attack."""
    seconds_per_epoch: Figure | None
    """Of each seed the median over its epochs: training steps, waiting for data and averages' statistics; no validation."""
    relative_cost: float | None
    """Seconds per epoch over those of the first run; None where one of the two has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The finished runs of a sweep beside each other."""

    name: str
    runs: tuple[RunFigures, ...]
    """All of the sweep's, in the file's order."""
    attacks: tuple[str, ...]
    """Those that any run was evaluated by, in the order of the evaluation."""
    missing: tuple[str, ...]
    """Folders of the runs that are not finished, from the sweep's."""
    devices: tuple[str, ...]
    """What the finished runs ran on."""
    test_images: tuple[int, ...]
    """How many test images they were evaluated on: one number where all are alike."""

    @property
    def robust(self) -> str | None:
        """The attack that stands for robustness: the one under which the runs are worst, on the average over them."""
        means = {
            attack: [run.accuracy[attack].mean for run in self.runs if attack in run.accuracy]
            for attack in self.attacks
            if attack != "natural"
        }
        return min(means, key=lambda attack: statistics.fmean(means[attack]), default=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


def compare(sweep: Sweep, folder: Path) -> Comparison:
    """Read what the runs of `sweep` in its `folder` have come to; those that are not finished are named as missing.

    Raises:
        UserError: a run of another recipe is in the sweep's folder, or a file of a run cannot be read or is damaged.
    """
    refuse_others(sweep, folder)
    summaries: dict[Path, dict[str, Any]] = {}
    for run in sweep.runs:
        if state_of(folder / run.folder) == "finished":
            summaries[run.folder] = read_object(folder / run.folder / "summary.json")
    rows: list[RunFigures] = []
    for name in sweep.names:
        seeds = [run for run in sweep.runs if run.name == name]
        done = [run for run in seeds if run.folder in summaries]
        accuracies = [_accuracy(summaries[run.folder], folder / run.folder) for run in done]
        seconds = Figure.of(
            seconds for run in done if (seconds := median_epoch_seconds(folder / run.folder)) is not None
        )
        first = rows[0].seconds_per_epoch if rows else seconds
        rows.append(
            RunFigures(
                name=name,
                recipe=seeds[0].recipe.name,
                method=seeds[0].recipe.method,
                epochs=seeds[0].recipe.epochs,
                seeds=tuple(run.seed for run in done),
                accuracy=_over_seeds(accuracies),
                seconds_per_epoch=seconds,
                relative_cost=seconds.mean / first.mean if seconds and first and first.mean else None,
            )
        )
    return Comparison(
        name=sweep.name,
        runs=tuple(rows),
        attacks=tuple(dict.fromkeys(attack for row in rows for attack in row.accuracy)),
        missing=tuple(str(run.folder) for run in sweep.runs if run.folder not in summaries),
        devices=tuple(dict.fromkeys(device_of(folder / run) for run in summaries)),
        test_images=tuple(dict.fromkeys(summary.get("test_images", 0) for summary in summaries.values())),
    )


def median_epoch_seconds(path: Path) -> float | None:
    """Seconds of training of the middle one of a run's epochs; None of a run that has ended none."""
    ends = [0.0, *(row["seconds"] for row in epoch_rows(path))]
    seconds = [end - start for start, end in pairwise(ends)]
    return statistics.median(seconds) if seconds else None


def device_of(path: Path) -> str:
    """What the run at `path` ran on: the GPU's or the processor's name, from its config.json."""
    config = read_object(path / "config.json")
    gpu, asked = field_at(config, "hardware.gpu"), field_at(config, "run.device")
    if gpu is not None and asked != "cpu":
        return str(gpu)
    return f"{field_at(config, 'hardware.cpu')}, {field_at(config, 'hardware.cores')} cores"


def _accuracy(summary: Mapping[str, Any], path: Path) -> dict[str, float]:
    accuracy = summary.get("accuracy")
    if not isinstance(accuracy, dict):
        raise UserError(f"{path / 'summary.json'} is damaged: it has no accuracy; restore it, or take the run away")
    return accuracy


def _over_seeds(accuracies: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    attacks = dict.fromkeys(attack for accuracy in accuracies for attack in accuracy)
    figures = {
        attack: Figure.of(accuracy[attack] for accuracy in accuracies if accuracy.get(attack) is not None)
        for attack in attacks
    }
    return {attack: figure for attack, figure in figures.items() if figure is not None}


def write_json(comparison: Comparison, path: Path) -> None:
    """Write everything of a comparison.

    Raises:
        UserError: the file cannot be written.
    """
    write_file(path, json.dumps(comparison.to_dict(), indent=2).encode() + b"\n")


def write_file(path: Path, content: bytes) -> None:
    """Replace a file by one of that content, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
