"""Where a replayed step's time goes, out of a profile of a few steps: kernels, launches, GPU busy, the data's share."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gpu_acceptance.setting import Setting
from dat_engine.profile.timing import Subject, now
from dat_engine.profile.trace import read_windows, recording, window

TRACE = "steps.trace.json"
TOP = 20
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
WINDOW = "steps"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProfile:
    """Of one step, on average over those that were profiled."""

    kernel_seconds: float
    """Kernels, copies and fills, each counted by itself: work on two streams at once counts twice."""
    data_seconds: float
    """Of that, shared out where several run at once: what was launched while the loader worked."""
    seconds: float
    """Wall time under the profiler."""
    launches: float
    """Kernels, copies and fills."""
    graph_nodes: int | None
    """Those of one replayed graph; None where no graph was replayed."""
    kernels: tuple[Mapping[str, Any], ...]
    """The `TOP` by time: name, milliseconds, calls, share in percent of `kernel_seconds`."""


def profile_steps(subject: Subject, setting: Setting, *, steps: int) -> StepProfile:
    """Profile `steps` steps; the compressed Chrome trace stays in the run's folder."""
    path, device = setting.work / TRACE, setting.device
    with recording(path, device):
        subject.run(next(subject.batches))  # the profiler prepares itself at the first launches
        now(device)
        with window(WINDOW):
            for _ in range(steps):
                subject.run(next(subject.batches))
            now(device)
    reading = read_windows(path, device)[WINDOW]
    text = path.read_text(encoding="utf-8", errors="replace")
    with gzip.open(path.with_name(path.name + ".gz"), "wt", encoding="utf-8", compresslevel=6) as file:
        file.write(text)
    path.unlink()
    return read_profile(json.loads(text)["traceEvents"], steps, reading.seconds, reading.phases["data"])


def read_profile(events: Sequence[Mapping[str, Any]], steps: int, seconds: float, data_seconds: float) -> StepProfile:
    """From a Chrome trace's events; work counts where it begins inside the window."""
    spans = [event for event in events if event.get("ph") == "X"]
    start, end = _window_of(spans)
    work = [event for event in spans if event.get("cat") in DEVICE_WORK and start <= float(event["ts"]) <= end]
    total = sum(float(event["dur"]) for event in work)
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in work:
        by_name[event["name"]].append(float(event["dur"]))
    largest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:TOP]
    return StepProfile(
        kernel_seconds=total / steps / 1e6,
        data_seconds=data_seconds / steps,
        seconds=seconds / steps,
        launches=len(work) / steps,
        graph_nodes=_nodes_of_a_replay(spans, work),
        kernels=tuple(
            {
                "name": name[:160],
                "milliseconds": round(sum(times) / steps / 1e3, 6),
                "calls": len(times) / steps,
                "percent": round(100 * sum(times) / total, 2),
            }
            for name, times in largest
        ),
    )


def _window_of(spans: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    for event in spans:
        if event.get("cat") == "user_annotation" and event["name"].endswith(f": {WINDOW}"):
            return float(event["ts"]), float(event["ts"]) + float(event["dur"])
    raise ValueError("the trace has no window of the profiled steps")


def _nodes_of_a_replay(spans: Sequence[Mapping[str, Any]], work: Sequence[Mapping[str, Any]]) -> int | None:
    """Device work of the largest graph launch: all of it has the launch's correlation id."""
    launches = {
        event["args"]["correlation"]
        for event in spans
        if "GraphLaunch" in event["name"] and "correlation" in event.get("args", {})
    }
    counts: dict[Any, int] = defaultdict(int)
    for event in work:
        correlation = event.get("args", {}).get("correlation")
        if correlation in launches:
            counts[correlation] += 1
    return max(counts.values(), default=None)
