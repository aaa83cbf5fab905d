"""What starts the processes of a sweep: this process, one after the other. submitit's executors stand in `submitted`."""

from __future__ import annotations

import signal
import subprocess
from typing import Protocol

from dat.sweep.training_process import TrainingProcess


class Job(Protocol):
    """A run that was started."""

    def exit_code(self) -> int | None:
        """As of ``dat train``, negative where a signal ended the process; None while it runs or waits for its turn."""

    def trouble(self) -> str | None:
        """Of a job that has ended: why the process of the run never came to its own end; None where it did."""

    def stop(self, number: int) -> None:
        """Ask it to save and end, by the signal `number` or as the job takes it."""


class Executor(Protocol):
    """Starts runs. `jobs` says how many may run at a time."""

    jobs: int

    def start(self, process: TrainingProcess) -> Job:
        """Start a run, or put it into a queue."""


class HereExecutor:
    """One process after the other."""

    jobs = 1

    def start(self, process: TrainingProcess) -> Job:
        return _Child(process.start())


class _Child:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def exit_code(self) -> int | None:
        return self._process.poll()

    def trouble(self) -> str | None:
        return None

    def stop(self, number: int) -> None:
        self._process.send_signal(signal.Signals(number))
