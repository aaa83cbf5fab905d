"""Wall time and memory of training steps; several subjects are timed in one process and take turns."""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from dat_engine.data import Batch, Loader, prefetched

WARM_UP_STEPS = 2
"""The first one compiles and captures."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One way of training, among those that are measured together."""

    name: str
    run: Callable[[Batch], object]
    """Takes one batch through a step the way training does: eager, compiled or as a graph."""
    step: Callable[[Batch], object]
    """The same without capture, so that a profiler sees its parts; `run` itself where nothing is captured."""
    batches: Iterator[Batch]
    """Without end; waiting for the next one counts as time of the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What `time_in_turn` measured of one subject: one figure per round, each over `steps` steps."""

    steps: int
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    """CPU time of the whole process, all threads."""

    @property
    def step_seconds(self) -> float:
        """Median over the rounds of the time of one step."""
        return statistics.median(self.seconds) / self.steps

    @property
    def threads_busy(self) -> float:
        """Mean number of threads that were computing (or spinning)."""
        return sum(self.cpu_seconds) / sum(self.seconds)


def endless(loader: Loader, device: torch.device) -> Iterator[Batch]:
    """Epoch after epoch of the loader, prefetched as in training."""
    for epoch in itertools.count():
        yield from prefetched(loader.epoch(epoch), device)


def warm_up(subject: Subject, device: torch.device) -> float:
    """Run the first steps, which compile, capture and choose algorithms; returns the last one's seconds."""
    seconds = 0.0
    for _ in range(WARM_UP_STEPS):
        started = now(device)
        subject.run(next(subject.batches))
        seconds = now(device) - started
    return seconds


def steps_that_take(seconds: float, step_seconds: float) -> int:
    """Number of steps, at least one, that together take about `seconds`."""
    return max(1, math.ceil(seconds / step_seconds))


def time_in_turn(
    subjects: Sequence[Subject],
    device: torch.device,
    *,
    rounds: int,
    steps: Mapping[str, int],
    on_round: Callable[[int], None] = lambda index: None,
) -> dict[str, Timing]:
    """Time every subject once per round, one after another, so that a slow spell of the machine meets all alike.

    Within a subject's turn of ``steps[name]`` steps the host waits for the device only at the end.
    """
    wall: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    cpu: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for index in range(rounds):
        on_round(index)
        for subject in subjects:
            started, cpu_started = now(device), time.process_time()
            for _ in range(steps[subject.name]):
                subject.run(next(subject.batches))
            wall[subject.name].append(now(device) - started)
            cpu[subject.name].append(time.process_time() - cpu_started)
    return {
        name: Timing(steps=steps[name], seconds=tuple(seconds), cpu_seconds=tuple(cpu[name]))
        for name, seconds in wall.items()
    }


def time_ratio(timing: Timing, reference: Timing) -> float:
    """Step time over the reference's: the median of the rounds' ratios, each taken from neighbours in time."""
    pairs = zip(timing.seconds, reference.seconds, strict=True)
    return statistics.median(one / other for one, other in pairs) * reference.steps / timing.steps


def now(device: torch.device) -> float:
    """Seconds of a monotonic clock, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def with_peak_memory(function: Callable[[], Result], device: torch.device) -> tuple[Result, int | None]:
    """Call `function`; its result, and the most bytes of device memory that it held at any time, None on a CPU.

    What was allocated before does not count. Look at a graph's construction, not at its replay: a replay allocates
    nothing, its memory having been set aside by the capture.
    """
    if device.type != "cuda":
        return function(), None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = function()
    torch.cuda.synchronize(device)
    return result, torch.cuda.max_memory_allocated(device) - before


def process_peak_memory() -> int:
    """Bytes of the most memory that this process has had resident since it started."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
