"""Runs as jobs of submitit: its local executor on this machine, its Slurm executor on a cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from dat.sweep.executors import Job
from dat.sweep.run_folder import state_of
from dat.sweep.training_process import TrainingProcess
from dat_engine.errors import UserError
from dat_engine.run.stop import parse_duration

_YEAR_MINUTES = 365 * 24 * 60
_REQUEUES = 20
_GRACE_SECONDS = 120.0


def check_submitit() -> None:
    """Raise UserError where submitit is not installed."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError(
            "the executors local and slurm are submitit's, which is not installed: pip install 'dat-engine[sweep]', or use "
            "--executor here"
        )


def visible_gpus(device: str | None) -> tuple[str, ...]:
    """The GPUs that the runs are shared out over, as CUDA_VISIBLE_DEVICES names them; none with ``cpu``.

    Raises:
        UserError: one GPU is asked for.
    """
    if device == "cpu":
        return ()
    if device is not None and ":" in device:
        raise UserError(f"the executor local gives each run a GPU of its own; use --device cuda, not {device}")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(filter(None, named.split(",")))
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


class SubmittedRun:
    """What submitit runs: a run as a process, begun or resumed as its folder asks for when its turn has come.

    SIGTERM is passed on to the process, which saves. When submitit hears that the job is preempted or that its time is
    up it calls `checkpoint`, and queues the job anew; the run then goes on from where it has saved.
    """

    def __init__(self, process: TrainingProcess, *, grace_seconds: float = 0.0) -> None:
        self._process = process
        self._grace_seconds = grace_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._told = False

    def __call__(self) -> int:
        """The exit code, as of ``dat train``; 0 of a run that was finished before."""
        if state_of(self._process.run_dir) == "finished":
            return 0
        signal.signal(signal.SIGTERM, self._pass_on)
        self._child = self._process.start()
        code = self._child.wait()
        if self._told:
            # a preempted job that ends by itself counts as done, and is not queued anew
            time.sleep(self._grace_seconds)
        return code

    def checkpoint(self) -> Any:
        """submitit's question what to queue anew: the same, once the run has saved."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._pass_on(signal.SIGTERM, None)
            # not Popen.wait: this may be called in the midst of it, and its lock is not to be had twice
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(SubmittedRun(self._process, grace_seconds=self._grace_seconds))

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._told = True
        if self._child is not None:
            self._child.send_signal(number)


class LocalExecutor:
    """submitit's local executor: as many runs at a time as `jobs` on this machine.

    Args:
        gpus: the devices as CUDA_VISIBLE_DEVICES names them, each run's its own as long as there are enough; none: the
            runs share the processor's cores.
    """

    def __init__(self, folder: Path, *, jobs: int | None, gpus: Sequence[str]) -> None:
        import submitit

        self.jobs = jobs or max(1, len(gpus))
        self._gpus = tuple(gpus)
        self._started: list[tuple[str, _LocalJob]] = []
        self._executor = submitit.LocalExecutor(folder)
        self._executor.update_parameters(timeout_min=_YEAR_MINUTES)

    def start(self, process: TrainingProcess) -> Job:
        gpu = min(self._gpus, key=self._load, default="")
        environment = {"CUDA_VISIBLE_DEVICES": gpu}
        if not gpu and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // self.jobs))
        process = replace(process, environment={**process.environment, **environment})
        with _without_interrupts():
            job = _LocalJob(self._executor.submit(SubmittedRun(process)))
        self._started.append((gpu, job))
        return job

    def _load(self, gpu: str) -> int:
        """How many runs a GPU has now."""
        return sum(own == gpu and job.exit_code() is None for own, job in self._started)


class SlurmExecutor:
    """submitit's Slurm executor: a job for each run.

    Args:
        parameters: of ``submitit.SlurmExecutor.update_parameters`` (partition, gpus_per_node, cpus_per_task, account, …);
            ``time`` may be a duration such as 4h, ``max_num_timeout`` says how often a job whose time is up is queued anew.

    Raises:
        UserError: no Slurm here, no time, or a parameter that submitit does not know.
    """

    def __init__(self, folder: Path, *, jobs: int, parameters: Mapping[str, Any], name: str) -> None:
        import submitit

        self.jobs = jobs
        own = {"job_name": name, **parameters}
        requeues = own.pop("max_num_timeout", _REQUEUES)
        if "time" not in own:
            raise UserError("the group slurm names no time; add how long a job may last, such as time: 4h")
        if isinstance(own["time"], str):
            own["time"] = max(1, int(parse_duration(own["time"]) // 60))
        try:
            self._executor = submitit.SlurmExecutor(folder, max_num_timeout=requeues)
        except RuntimeError:
            raise UserError("there is no Slurm here (no srun on the PATH); use --executor local, or here") from None
        try:
            self._executor.update_parameters(**own)
        except (ValueError, TypeError) as error:
            raise UserError(f"the group slurm is not what submitit takes: {' '.join(str(error).split())}") from None

    def start(self, process: TrainingProcess) -> Job:
        return _SlurmJob(self._executor.submit(SubmittedRun(process, grace_seconds=_GRACE_SECONDS)))


class _SubmittedJob:
    def __init__(self, job: Any) -> None:
        self._job = job
        self._code: int | None = None
        self._trouble: str | None = None

    def exit_code(self) -> int | None:
        if self._code is None and self._job.done():
            try:
                self._code = int(self._job.result())
            except Exception as error:  # submitit has several, and what a job raised comes as its own kind
                self._code = 1
                self._trouble = f"job {self._job.job_id} ended without a result: {_last_line(error)}"
        return self._code

    def trouble(self) -> str | None:
        return self._trouble


class _LocalJob(_SubmittedJob):
    def stop(self, number: int) -> None:
        """By SIGTERM, whatever the sweep received: on SIGINT submitit's controller leaves its task a second."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self._job.job_id), signal.SIGTERM)


class _SlurmJob(_SubmittedJob):
    def stop(self, number: int) -> None:
        """By scancel, which sends SIGTERM first."""
        self._job.cancel(check=False)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started within the context do not hear Ctrl+C: submitit's would take their runs down unsaved."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
