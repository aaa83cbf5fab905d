"""A sweep from its first run to its comparison."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dat.sweep.comparison import Comparison
from dat.sweep.executors import Executor, HereExecutor, Job
from dat.sweep.file import Sweep, SweepRun, read_sweep
from dat.sweep.options import SweepOptions
from dat.sweep.progress import Progress
from dat.sweep.report import open_console, write_comparison
from dat.sweep.run_folder import state_of
from dat.sweep.training_process import TrainingProcess
from dat_engine.errors import UserError
from dat_engine.run.lock import holder_of
from dat_engine.run.stop import Stop, parse_duration

_LOOK_SECONDS = 0.2
_STOPPED = tuple(code for number in (signal.SIGINT, signal.SIGTERM) for code in (128 + number, -number))
"""Exit codes of runs that a signal stopped; negative, before they had come so far as to save."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """What a sweep has come to."""

    folder: Path
    comparison: Comparison
    ending: Literal["finished", "time limit", "signal"]
    failed: Mapping[str, str] = field(default_factory=dict)
    """The run's folder, from the sweep's -> why it failed."""
    stop_signal: int | None = None
    """The signal that stopped the sweep."""


def run_sweep(sweep: str | Path | Sweep, options: SweepOptions | None = None, **changes: Any) -> SweepResult:
    """Run what is missing of a sweep, resume what is unfinished, and compare: what ``dat sweep`` does.

    ``run_sweep("sweep.yaml", out="runs/sweep", device="cpu")``

    Each run is a process of its own and an ordinary run directory ``NAME/seed-N``, beside which stand its recipe and its
    log. One that fails leaves the others. In the main thread Ctrl+C and SIGTERM let the runs that run save; the same call
    goes on.

    Args:
        sweep: what `read_sweep` returned, or a file for it.
        options: where and how; None: as the file says.
        changes: other values of fields of `SweepOptions`.

    Raises:
        UserError: wrong input, before any run is started; or a run of another recipe in the sweep's folder.
    """
    if not isinstance(sweep, Sweep):
        sweep = read_sweep(sweep)
    options = replace(options or sweep.options, **_paths(changes))
    if options.dry_run or options.compare:
        raise UserError(
            "run_sweep starts what is missing; read_sweep(file).runs lists the runs, and compare compares them"
        )
    from dat.sweep.checks import check_data, check_runs  # imports torch

    folder = sweep.folder(options)
    check_runs(sweep, options, folder)
    check_data(sweep, options)
    executor = _executor(sweep, options, folder)
    limit = None if options.time_limit is None else parse_duration(options.time_limit)
    console = open_console()
    with Stop(time_limit=limit) as stop, Progress(console, len(sweep.runs)) as progress:
        failed = _run_all(sweep, options, folder, executor, progress, stop)
        reason = stop.reason
    comparison = write_comparison(sweep, folder, console)
    ending = reason if comparison.missing and reason is not None else "finished"
    return SweepResult(
        folder=folder, comparison=comparison, ending=ending, failed=failed, stop_signal=stop.signal_number
    )


def _paths(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: Path(value) if name in ("out", "data_root") and value is not None else value
        for name, value in changes.items()
    }


def _executor(sweep: Sweep, options: SweepOptions, folder: Path) -> Executor:
    if options.executor == "here":
        return HereExecutor()
    from dat.sweep.submitted import LocalExecutor, SlurmExecutor, check_submitit, visible_gpus

    check_submitit()
    own = folder.absolute() / "submitit"
    if options.executor == "local":
        return LocalExecutor(own, jobs=options.jobs, gpus=visible_gpus(options.device))
    return SlurmExecutor(own, jobs=options.jobs or len(sweep.runs), parameters=sweep.slurm, name=sweep.name)


@dataclass(frozen=True, slots=True)
class _Running:
    number: int
    run: SweepRun
    process: TrainingProcess
    job: Job


def _run_all(
    sweep: Sweep, options: SweepOptions, folder: Path, executor: Executor, progress: Progress, stop: Stop
) -> dict[str, str]:
    """Run what is not finished, as many at a time as the executor takes; folder of a run that failed -> why."""
    waiting = list(enumerate(sweep.runs, start=1))
    running: list[_Running] = []
    failed: dict[str, str] = {}
    elsewhere: set[Path] = set()
    told = False
    try:
        while running or (waiting and stop.reason is None):
            held: list[tuple[int, SweepRun]] = []
            while waiting and stop.reason is None and len(running) + len(held) < executor.jobs:
                number, run = waiting.pop(0)
                state = state_of(folder / run.folder)
                if state == "finished":
                    progress.ends(number, run, "finished before")
                    continue
                holder = holder_of(folder / run.folder)
                if holder is not None:
                    held.append((number, run))
                    if run.folder not in elsewhere:
                        elsewhere.add(run.folder)
                        progress.ends(number, run, f"is still being trained by {holder}; waits until that has ended")
                    continue
                process = TrainingProcess(run_dir=folder / run.folder, flags=_flags(options))
                process.prepare(run.recipe)
                progress.begins(number, run, "begins" if state == "missing" else "goes on", process.run_dir)
                running.append(_Running(number, run, process, executor.start(process)))
            waiting = held + waiting
            if stop.reason is not None and not told:
                told = True
                _stop(running, stop)
            for one in list(running):
                progress.follow(one.number, one.run, one.process.run_dir)
                code = one.job.exit_code()
                if code is None:
                    continue
                running.remove(one)
                why = _why_failed(one, code, stopped=told)
                progress.ends(one.number, one.run, _ending(one, why))
                if why is not None:
                    failed[str(one.run.folder)] = why
            if running or waiting:
                time.sleep(_LOOK_SECONDS)
    except BaseException:
        _stop(running, stop)
        raise
    return failed


def _stop(running: list[_Running], stop: Stop) -> None:
    for one in running:
        one.job.stop(stop.signal_number or signal.SIGTERM)


def _why_failed(one: _Running, code: int, *, stopped: bool) -> str | None:
    if code == 0 and state_of(one.process.run_dir) == "finished":
        return None
    trouble = one.job.trouble()
    if stopped and (code in _STOPPED or trouble is not None):
        return None
    return f"{trouble or one.process.last_words(code)} ({one.process.log})"


def _ending(one: _Running, why: str | None) -> str:
    if why is not None:
        return f"failed: {why}"
    return "done" if state_of(one.process.run_dir) == "finished" else "stopped"


def _flags(options: SweepOptions) -> tuple[str, ...]:
    """The flags of ``dat train`` that say where a run is run."""
    flags = ["--data-root", str(options.data_root)]
    if options.device is not None:
        flags += ["--device", options.device]
    if options.deterministic:
        flags.append("--deterministic")
    return tuple(flags)
