"""What a training step costs, subject by subject, and where its time goes; `dat profile` is made of this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dat.profiling.options import ROUNDS
from dat.profiling.subjects import REFERENCE, WarmSubject
from dat_engine.profile.flops import count_flops, matrix_product_rate
from dat_engine.profile.ranges import RANGES
from dat_engine.profile.timing import (
    Subject,
    Timing,
    now,
    process_peak_memory,
    steps_that_take,
    time_in_turn,
    time_ratio,
)
from dat_engine.profile.trace import OTHER, WindowReading, read_windows, recording, window
from dat_engine.run.environment import describe_environment

TURN_SECONDS = 1.0
"""How long a subject's turn lasts where the number of steps is not given."""
PROFILED_STEPS = 3
"""At most; as many as are timed where that is fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodProfile:
    """What was measured of one subject; times in seconds, of one step unless the name says otherwise."""

    execution: str
    """How the timed steps ran: eager, compiled or graphed."""
    precision: str
    weights: Mapping[str, object]
    """awp, ema and swa, those that are on: what they do in a step is in all figures, the ends of epochs in none."""
    batch_size: int
    steps_per_epoch: int
    steps_per_round: int
    round_seconds: tuple[float, ...]
    step_seconds: float
    epoch_seconds: float
    """Median step times steps per epoch: training steps and their data, without validation, logs and checkpoints."""
    images_per_second: float
    ratio_to_reference: float | None
    """Step time over that of the engine's PGD-AT, median of the rounds' ratios; None where it was not measured."""
    profiled_steps: int
    profiled_step_seconds: float
    """Wall time under the profiler, uncaptured: longer than `step_seconds`."""
    phases: Mapping[str, float]
    """Of a profiled, uncaptured step; on a GPU the device time of what each phase launched, on a CPU wall time."""
    busy: float
    """Share of the wall time in which the GPU worked (profiled, run as training runs it); on a CPU the CPU time of the
    process over wall time x threads."""
    peak_memory_bytes: int | None
    """Device memory at most, the resident data set included; None on a CPU."""
    flops: int
    """Convolutions and matrix products of one step; a multiply-add is two."""
    flops_per_second: float
    share_of_matrix_product_rate: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Everything that one measurement found out."""

    device: str
    """cpu or cuda."""
    rounds: int
    matrix_product_rates: Mapping[str, float]
    """Operations per second of a large matrix product on this device, by precision."""
    process_peak_memory_bytes: int
    """Resident memory of the process at most, all subjects together."""
    methods: Mapping[str, MethodProfile]

    def to_dict(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """JSON types only, with the recipe and what the figures were made on."""
        return {
            "environment": describe_environment(),
            "recipe": dict(recipe),
            "reference": REFERENCE,
            "meaning": meanings(self.device),
            "threads": torch.get_num_threads(),
            **asdict(self),
        }


def meanings(device: str) -> dict[str, str]:
    """What the figures that depend on the device stand for."""
    seconds = "median step x steps per epoch, extrapolated from the timed steps; no validation, logs or checkpoints"
    if device == "cuda":
        return {
            "epoch_seconds": seconds,
            "phases": "device time of the kernels and copies that each phase launched, in an uncaptured step",
            "busy": "share of wall time in which a kernel or copy ran, in steps run as in training, under the profiler",
            "peak_memory": "device memory allocated at most by each method, its resident data set included",
        }
    return {
        "epoch_seconds": seconds,
        "phases": "wall time of each phase, under the profiler",
        "busy": "CPU time of the process over wall time x threads, in the timed steps",
        "peak_memory": "resident memory of the whole process at most, all methods together",
    }


def measure(
    entries: Sequence[WarmSubject],
    device: torch.device,
    *,
    trace: Path,
    rounds: int = ROUNDS,
    steps: int | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> Profile:
    """Time, count and profile warm subjects.

    Args:
        trace: file that the profiled steps are recorded in, as a Chrome trace.
        steps: per subject and round; None: as many as take about `TURN_SECONDS`.
        report: is told what is going on.
    """
    subjects = [entry.subject for entry in entries]
    turns = {entry.subject.name: steps or steps_that_take(TURN_SECONDS, entry.warm_step_seconds) for entry in entries}
    timings = time_in_turn(
        subjects,
        device,
        rounds=rounds,
        steps=turns,
        on_round=lambda index: report(f"timing {', '.join(turns)}: round {index + 1} of {rounds}"),
    )
    report("counting operations")
    flops = {subject.name: count_flops(partial(_take_step, subject)) for subject in subjects}
    precisions = {entry.precision.name: entry.precision.dtype for entry in entries}
    rates = {name: matrix_product_rate(device, dtype) for name, dtype in precisions.items()}
    report("profiling")
    profiled = {name: min(count, PROFILED_STEPS) for name, count in turns.items()}
    as_run, uncaptured = _profiled(entries, device, profiled, trace)
    methods = {
        name: _combine(
            entry,
            timings[name],
            timings.get(REFERENCE),
            flops[name],
            rates[entry.precision.name],
            profiled[name],
            as_run[name],
            uncaptured[name],
        )
        for name, entry in ((entry.subject.name, entry) for entry in entries)
    }
    return Profile(
        device=device.type,
        rounds=rounds,
        matrix_product_rates=rates,
        process_peak_memory_bytes=process_peak_memory(),
        methods=methods,
    )


def _profiled(
    entries: Sequence[WarmSubject], device: torch.device, steps: Mapping[str, int], trace: Path
) -> tuple[dict[str, WindowReading], dict[str, WindowReading]]:
    """Readings of steps run as in training, and of uncaptured ones; the same where nothing is captured."""
    subjects = [entry.subject for entry in entries]
    with recording(trace, device):
        if device.type == "cuda":  # the profiler prepares itself at the first launches that it sees
            _take_step(subjects[0])
            now(device)
        for subject in subjects:
            runs = {subject.name: subject.run}
            if subject.step is not subject.run:
                runs[_uncaptured(subject.name)] = subject.step
            for label, run in runs.items():
                with window(label):
                    for _ in range(steps[subject.name]):
                        run(next(subject.batches))
                    now(device)
    readings = read_windows(trace, device)
    as_run = {subject.name: readings[subject.name] for subject in subjects}
    return as_run, {name: readings.get(_uncaptured(name), reading) for name, reading in as_run.items()}


def _take_step(subject: Subject) -> None:
    subject.step(next(subject.batches))


def _uncaptured(name: str) -> str:
    return f"{name}, uncaptured"


def _combine(
    entry: WarmSubject,
    timing: Timing,
    reference: Timing | None,
    flops: int,
    matrix_product_rate: float,
    profiled_steps: int,
    as_run: WindowReading,
    uncaptured: WindowReading,
) -> MethodProfile:
    step_seconds = timing.step_seconds
    if as_run.device_seconds is None:
        busy = timing.threads_busy / torch.get_num_threads()
    else:
        busy = as_run.device_seconds / as_run.seconds
    return MethodProfile(
        execution=entry.execution,
        precision=entry.precision.name,
        weights=entry.weights,
        batch_size=entry.batch_size,
        steps_per_epoch=entry.steps_per_epoch,
        steps_per_round=timing.steps,
        round_seconds=timing.seconds,
        step_seconds=step_seconds,
        epoch_seconds=step_seconds * entry.steps_per_epoch,
        images_per_second=entry.batch_size / step_seconds,
        ratio_to_reference=None if reference is None else time_ratio(timing, reference),
        profiled_steps=profiled_steps,
        profiled_step_seconds=uncaptured.seconds / profiled_steps,
        phases={name: uncaptured.phases[name] / profiled_steps for name in (*RANGES, OTHER)},
        busy=busy,
        peak_memory_bytes=entry.peak_memory,
        flops=flops,
        flops_per_second=flops / step_seconds,
        share_of_matrix_product_rate=flops / step_seconds / matrix_product_rate,
    )
