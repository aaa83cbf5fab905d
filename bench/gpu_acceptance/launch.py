"""Runs sections in processes of their own, each with a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from bench.gpu_acceptance.sections import Section

SIDE_BY_SIDE = 5
"""Gates at once: they wait for compilers more than for the GPU."""
LEAST_FOR_OPTIONAL = 20.0
"""Seconds without which an optional section is not begun: a process needs ten to import torch and find its GPU."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a section's process ended."""

    section: str
    complete: bool
    """Whether it came to its end, or did not have to."""
    detail: str
    seconds: float
    skipped: bool = False
    """Left out, or cut short, for want of time, which an optional section may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What all sections of a run are started with."""

    work: Path
    rehearsal: bool
    data_root: Path | None
    ends: float
    """`time.monotonic()` at which the whole run must be over."""
    train_minutes: float = 0.0
    caches: Path | None = None
    """Folder of compiled kernels that outlives the run; None: one that ends with it."""

    def log(self, section: str) -> Path:
        return self.work / f"{section}.log"


@dataclass(slots=True)
class _Running:
    section: Section
    process: subprocess.Popen[str]
    log: TextIO
    started: float
    limit: float


def run_stage(
    stage: Sequence[Section],
    launch: Launch,
    *,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    while_running: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Run the sections of one stage, side by side where none of them measures times.

    `while_running` is called again and again in between; whatever ends this call ends the sections too.
    """
    waiting, running, outcomes = list(stage), list[_Running](), list[Outcome]()

    def end(outcome: Outcome) -> None:
        outcomes.append(outcome)
        on_end(outcome)

    try:
        while waiting or running:
            while waiting and len(running) < SIDE_BY_SIDE:
                section = waiting.pop(0)
                left = launch.ends - time.monotonic()
                if left < (LEAST_FOR_OPTIONAL if section.optional else 5):
                    end(_left_out(section))
                else:
                    running.append(_start(section, launch, min(section.limit, left)))
            time.sleep(0.05)
            while_running()
            for one in list(running):
                outcome = _look_at(one)
                if outcome is not None:
                    running.remove(one)
                    end(outcome)
    finally:
        for one in running:
            _end_group(one.process)
            one.log.close()
    return outcomes


def _left_out(section: Section) -> Outcome:
    return Outcome(
        section=section.name,
        complete=section.helps or section.optional,
        detail="the run's time was used up",
        seconds=0.0,
        skipped=section.optional,
    )


def run_together(sections: Sequence[Section], launch: Launch) -> list[Outcome]:
    """All sections one after another in one process, which starts faster: for a rehearsal."""
    names = [section.name for section in sections]
    both = Section(name="rehearsal", summary="", limit=launch.ends - time.monotonic())
    one = _start(both, launch, both.limit, names)
    try:
        while (outcome := _look_at(one)) is None:
            time.sleep(0.05)
    finally:
        _end_group(one.process)
    return [
        Outcome(section=name, complete=outcome.complete, detail=outcome.detail, seconds=outcome.seconds)
        for name in names
    ]


def _start(section: Section, launch: Launch, limit: float, names: Sequence[str] = ()) -> _Running:
    log = launch.log(section.name).open("w", encoding="utf-8")
    process = subprocess.Popen(
        command(names or [section.name], launch, limit),
        cwd=ROOT,
        env=_environment(section, launch),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its compiler's workers are in it, and end with it
    )
    return _Running(section=section, process=process, log=log, started=time.monotonic(), limit=limit)


def command(names: Sequence[str], launch: Launch, limit: float) -> list[str]:
    """What is run for these sections."""
    words = [sys.executable, "-m", "bench.gpu_acceptance.section", *names]
    words += ["--work", str(launch.work), "--seconds", str(limit)]
    words += ["--rehearsal"] if launch.rehearsal else []
    words += ["--data-root", str(launch.data_root)] if launch.data_root else []
    words += ["--train-minutes", str(launch.train_minutes)] if launch.train_minutes else []
    return words


def _environment(section: Section, launch: Launch) -> dict[str, str]:
    compiled = launch.caches or launch.work / "compiled"
    changes = {
        "PYTHONUNBUFFERED": "1",
        # one cache for all sections of a run: what one has compiled the others find
        "TORCHINDUCTOR_CACHE_DIR": str(compiled / "inductor"),
        "TRITON_CACHE_DIR": str(compiled / "triton"),
    }
    if not section.times:
        changes["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS gives the same bits on several streams
        changes["TORCHINDUCTOR_COMPILE_THREADS"] = str(max(1, (os.cpu_count() or 1) // SIDE_BY_SIDE))
    if launch.rehearsal:
        changes |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **changes}


def _look_at(one: _Running) -> Outcome | None:
    """The outcome of a section that has ended or has to; None while it works."""
    seconds = time.monotonic() - one.started
    code = one.process.poll()
    if code is None and seconds < one.limit:
        return None
    skipped = code is None and one.section.optional
    complete = code == 0 or one.section.helps or skipped
    detail = "" if code == 0 else f"stopped after {one.limit:.0f} s" if code is None else _exit(code)
    _end_group(one.process)
    one.log.close()
    return Outcome(section=one.section.name, complete=complete, detail=detail, seconds=seconds, skipped=skipped)


def _exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _end_group(process: subprocess.Popen[str]) -> None:
    """End what the section has started; the group is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
