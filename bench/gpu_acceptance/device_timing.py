"""Times of device work by events, without the host's share: replays of CUDA graphs, begun behind a queued device sleep.

An event that is recorded on an idle GPU is stamped before the host has dispatched the work, and 15 to 50 µs of dispatch would
count as the kernel's. Here the stream sleeps until start event, work and end event are all queued, and that it still slept
then is looked at: a start event that has passed already means that the sleep was too short, and the measurement is made again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch

from bench.gpu_acceptance.setting import Setting
from dat_engine import private_torch

STAND_IN = 1e-3
"""Seconds that the stand-in clock gives for everything."""
CALLS = 8
"""In one graph at least: what a replay costs besides its calls is then an eighth of it, or less."""
FIRST_SLEEP, LONGEST_SLEEP = 1_000_000, 1 << 30
"""Cycles: about half a millisecond, half a second."""
Task = Callable[[], object]


class Event(Protocol):
    """A mark in a stream."""

    def record(self) -> None: ...

    def query(self) -> bool:
        """Whether the device has passed it."""
        ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Event, /) -> float:
        """Milliseconds between the two."""
        ...


class DeviceClock(Protocol):
    """What a measurement asks of the device; the rehearsal's does the tasks and gives made-up times."""

    def event(self) -> Event: ...

    def sleep(self, cycles: int) -> None: ...

    def captured(self, tasks: Sequence[Task]) -> Task:
        """The replay of a graph of all `tasks`, in their order, on the current stream."""
        ...


class CudaClock:
    """Events, sleep and graphs of the current CUDA device."""

    def event(self) -> Event:
        return cast(Event, torch.cuda.Event(enable_timing=True))

    def sleep(self, cycles: int) -> None:
        private_torch.sleep_on_device(cycles)

    def captured(self, tasks: Sequence[Task]) -> Task:
        here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            for task in dict.fromkeys(tasks):  # compilation, autotuning and workspaces, once per kind of call
                task()
        here.wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for task in tasks:
                task()
        return graph.replay


class StandInClock:
    """The rehearsal's: tasks are done at once, every measurement gives `STAND_IN`."""

    class _Event:
        def record(self) -> None: ...

        def query(self) -> bool:
            return False

        def synchronize(self) -> None: ...

        def elapsed_time(self, end_event: Event, /) -> float:
            return 1e3 * STAND_IN

    def event(self) -> Event:
        return self._Event()

    def sleep(self, cycles: int) -> None: ...

    def captured(self, tasks: Sequence[Task]) -> Task:
        def replay() -> None:
            for task in dict.fromkeys(tasks):
                task()

        return replay


def clock_of(setting: Setting) -> DeviceClock:
    return StandInClock() if setting.rehearsal else CudaClock()


def seconds_of(task: Task, setting: Setting, *, calls: int = CALLS, repeats: int = 15) -> float:
    """Median device time of one call, out of `calls` in a graph."""
    return seconds_in_graph([task], setting, calls=calls, repeats=repeats)


def seconds_in_graph(tasks: Sequence[Task], setting: Setting, *, calls: int = 64, repeats: int = 15) -> float:
    """Median device time of one call out of `calls`, the tasks taking turns, in one captured graph."""
    clock = clock_of(setting)
    in_turn = [tasks[index % len(tasks)] for index in range(calls)]
    return median_behind_sleep(clock.captured(in_turn), clock, repeats=repeats) / calls


def seconds_queued(task: Task, setting: Setting, *, calls: int = CALLS, repeats: int = 15) -> float:
    """The same for a task that cannot be captured: its calls are queued one by one while the device sleeps."""

    def queue() -> None:
        for _ in range(calls):
            task()

    return median_behind_sleep(queue, clock_of(setting), repeats=repeats) / calls


def median_behind_sleep(work: Task, clock: DeviceClock, *, repeats: int, warm_up: int = 2) -> float:
    """Median seconds from the device's start of `work` to its end, all of it queued before the start.

    Raises:
        RuntimeError: the device was never kept asleep until everything was queued: `work` waits for it.
    """
    for _ in range(warm_up):
        work()
    cycles, times = FIRST_SLEEP, list[float]()
    while len(times) < repeats:
        start, end = clock.event(), clock.event()
        clock.sleep(cycles)
        start.record()
        work()
        end.record()
        overslept = start.query()  # the host was not done with queueing when the device began
        end.synchronize()
        if not overslept:
            times.append(start.elapsed_time(end) / 1e3)
        elif cycles >= LONGEST_SLEEP:
            raise RuntimeError("the work waits for the device, so that its time holds the host's share too")
        else:
            cycles *= 2
    return statistics.median(times)
