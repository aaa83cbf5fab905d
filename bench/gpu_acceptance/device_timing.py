"""Times of device work by events: single calls, and calls inside a CUDA graph. In a rehearsal a stand-in clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

from bench.gpu_acceptance.setting import Setting

STAND_IN = 1e-3
"""Seconds that the stand-in clock gives for everything."""
Task = Callable[[], object]


def seconds_of(task: Task, setting: Setting, *, repeats: int = 15, warm_up: int = 3) -> float:
    """Median device time of one call, launch included."""
    if setting.rehearsal:
        task()
        return STAND_IN
    for _ in range(warm_up):
        task()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        task()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def seconds_in_graph(tasks: Sequence[Task], setting: Setting, *, calls: int = 64, replays: int = 15) -> float:
    """Median device time of one call out of `calls`, the tasks taking turns, in one captured graph."""
    if setting.rehearsal:
        for task in tasks:
            task()
        return STAND_IN
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for task in tasks:
            task()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for index in range(calls):
            tasks[index % len(tasks)]()
    return seconds_of(graph.replay, setting, repeats=replays) / calls
