"""Where a step's time goes: a torch profile as a Chrome trace, read back by the phases of `dat_engine.profile.ranges`.

On a CPU a phase's time is that of its range on the calling thread, which runs the backward pass too. On a GPU it is the
time of the kernels and copies that were launched while the range was open, by whichever thread: a backward pass launches
from autograd's own thread, to which neither the range nor the profiler's GPU annotation reaches, but the calling thread
waits for it inside the range. Where several kernels run at once they share the moment, so that phases add up.
"""

from __future__ import annotations

import json
import os
import warnings
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from dat_engine.profile.ranges import PREFIX, RANGES

OTHER = "other"
"""What runs outside every phase: random draws, metrics, the interpreter between them."""

_WINDOW = "dat-engine window: "
_DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")

Span = tuple[float, float, str]
"""Start, end (both in microseconds), label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowReading:
    """One window of a trace, in seconds."""

    seconds: float
    """Wall time."""
    device_seconds: float | None
    """Time in which at least one kernel or copy ran on the GPU; None where there is no GPU."""
    phases: Mapping[str, float]
    """By phase, and `OTHER`: they add up to `device_seconds`, without a GPU to `seconds`."""


@contextmanager
def recording(path: Path, device: torch.device) -> Iterator[None]:
    """Profile the block and write it to `path` as a Chrome trace, which Perfetto reads as well."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes its own news to standard error
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as recorded:
        yield
    recorded.export_chrome_trace(str(path))


def window(label: str) -> record_function:
    """Context manager around the part of a recording that `read_windows` gives as `label`.

    The device must be idle when it is entered and waited for before it is left.
    """
    return record_function(_WINDOW + label)


def read_windows(path: Path, device: torch.device) -> dict[str, WindowReading]:
    """The windows of the trace at `path`, by label."""
    trace = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    annotations = [event for event in events if event.get("cat") == "user_annotation"]
    phases = innermost([_span(event, PREFIX) for event in annotations if event["name"].startswith(PREFIX)])
    work = _device_work(events, phases) if device.type == "cuda" else None
    if work == []:
        warnings.warn(
            "the profiler recorded no GPU work, so phases and GPU busy read 0; it may lack the permission to use CUPTI, or "
            "another profiler may be attached",
            stacklevel=2,
        )
    return {
        label: _read(start, end, phases, work)
        for start, end, label in (_span(event, _WINDOW) for event in annotations if event["name"].startswith(_WINDOW))
    }


def _read(start: float, end: float, phases: Sequence[Span], work: Sequence[Span] | None) -> WindowReading:
    times = dict.fromkeys((*RANGES, OTHER), 0.0)
    if work is None:
        for label, time in shared(_cut(phases, start, end)).items():
            times[label] += time
        times[OTHER] = max(0.0, end - start - sum(times.values()))
    else:
        for label, time in shared(_cut(work, start, end)).items():
            times[label] += time
    return WindowReading(
        seconds=(end - start) / 1e6,
        device_seconds=None if work is None else sum(times.values()) / 1e6,
        phases={label: time / 1e6 for label, time in times.items()},
    )


def _device_work(events: Sequence[Mapping[str, Any]], phases: Sequence[Span]) -> list[Span]:
    """Every kernel and copy, labelled with the phase that was open on the host when it was launched."""
    launched: dict[int, float] = {}
    by_operator: dict[int, float] = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") in _LAUNCHES and "correlation" in arguments:
            launched.setdefault(arguments["correlation"], float(event["ts"]))
        elif event.get("cat") in ("cpu_op", "user_annotation") and "External id" in arguments:
            by_operator.setdefault(arguments["External id"], float(event["ts"]))
    starts = [start for start, _, _ in phases]
    work = []
    for event in events:
        if event.get("cat") not in _DEVICE_WORK:
            continue
        arguments = event.get("args", {})
        # the profiler does not trace every way to launch; the operator around it then says when
        moment = launched.get(arguments.get("correlation"), by_operator.get(arguments.get("External id")))
        label = OTHER
        if moment is not None and (index := bisect_right(starts, moment) - 1) >= 0 and moment < phases[index][1]:
            label = phases[index][2]
        start, end, _ = _span(event, "")
        work.append((start, end, label))
    return work


def innermost(spans: Sequence[Span]) -> list[Span]:
    """Nested spans as disjoint ones in the order of time: every moment has the label of the span opened last."""
    result: list[Span] = []
    opened: list[int] = []
    before = 0.0
    for moment, is_start, index in _boundaries(spans):
        if opened and moment > before:
            result.append((before, moment, spans[opened[-1]][2]))
        before = moment
        if is_start:
            opened.append(index)
        else:
            opened.remove(index)
    return result


def shared(spans: Sequence[Span]) -> dict[str, float]:
    """Time by label; a moment in which several spans are open is divided equally among them."""
    times: dict[str, float] = defaultdict(float)
    opened: dict[str, int] = defaultdict(int)
    before = 0.0
    for moment, is_start, index in _boundaries(spans):
        total = sum(opened.values())
        if total:
            for label, count in opened.items():
                times[label] += (moment - before) * count / total
        before = moment
        opened[spans[index][2]] += 1 if is_start else -1
    return dict(times)


def _boundaries(spans: Sequence[Span]) -> list[tuple[float, bool, int]]:
    """Starts and ends in the order of time, ends before starts: (moment, whether it is a start, index of the span)."""
    boundaries = [
        (moment, is_start, index)
        for index, (start, end, _) in enumerate(spans)
        if start < end
        for moment, is_start in ((start, True), (end, False))
    ]
    return sorted(boundaries, key=lambda boundary: boundary[:2])


def _cut(spans: Sequence[Span], start: float, end: float) -> list[Span]:
    return [(max(one, start), min(two, end), label) for one, two, label in spans if one < end and two > start]


def _span(event: Mapping[str, Any], prefix: str) -> Span:
    start = float(event["ts"])
    return start, start + float(event["dur"]), event["name"].removeprefix(prefix)
