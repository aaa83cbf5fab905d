"""Worker processes that outlive a signal to the whole process group, and are replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from dat_engine.errors import RunFailedError
from dat_engine.run.parent import ends_with

__all__ = ["batches_of_workers"]

_LOSSES_WITHOUT_A_BATCH = 3


def batches_of_workers(loader_from: Callable[[int], DataLoader[Any]], first: int) -> Iterator[Any]:
    """The batches of the loader that `loader_from(first)` makes; after a worker's death those that were still to come.

    Workers leave SIGTERM and SIGINT to the process that trains: a scheduler, `timeout` and Ctrl+C signal a whole process
    group, and the step that is being finished needs nothing of them, but torch takes a dead worker for an error. They end
    when that process ends them, and when it dies.

    loader_from: the loader of the batches from a position on; called again, with a warning, where a worker has died.

    Raises:
        RunFailedError: workers died three times without a batch in between.
    """
    position, losses = first, 0
    while True:
        workers = _Workers()
        batches = workers.started(loader_from(position))
        try:
            while True:
                batch = next(batches, None)
                if batch is None:
                    return
                yield batch
                position, losses = position + 1, 0
        except Exception as error:  # torch's RuntimeError, or what a half-told batch makes of its queue
            death = workers.death()
            if death is None:
                raise
            losses += 1
            if losses == _LOSSES_WITHOUT_A_BATCH:
                raise RunFailedError(
                    f"loader workers died {losses} times before batch {position} of the epoch was made (the last {death}); "
                    "look for what kills them (memory, /dev/shm), or use fewer of them by --data.workers"
                ) from error
            warnings.warn(
                f"a loader worker died ({death}); new ones go on from batch {position} of the epoch", stacklevel=2
            )


class _Workers:
    """The worker processes of one pass over a DataLoader."""

    def __init__(self) -> None:
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def started(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The loader's iterator, whose workers run."""
        loader.worker_init_fn = _InWorker(os.getpid())
        before = set(multiprocessing.active_children())
        # Held back until each worker has its thread for it: a signal in between would kill the worker.
        ours = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        outside = signal.getsignal(signal.SIGCHLD)
        try:
            batches = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ours)
        if signal.getsignal(signal.SIGCHLD) != outside:
            # torch's handler raises wherever the main thread is when a worker dies: in the middle of a training step too,
            # whose state would be half old and half new. Without it a death is found while a batch is waited for.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if outside is None else outside)
        self._processes = [child for child in multiprocessing.active_children() if child not in before]
        return batches

    def death(self) -> str | None:
        """How a worker that is gone died, in words; None where all live."""
        for process in self._processes:
            process.join(0.1)
            if process.exitcode is not None:
                return _in_words(process.exitcode)
        return None


def _in_words(exit_code: int) -> str:
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    try:
        return f"by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"by signal {-exit_code}"


@dataclass(frozen=True, slots=True)
class _InWorker:
    """What a worker does before its first sample."""

    trainer: int
    """The process that trains."""

    def __call__(self, _worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._obey_the_trainer, daemon=True).start()
        # torch's own look after the trainer comes only between two samples, and not from a full queue
        if os.getppid() == self.trainer and not ends_with(self.trainer, signal.SIGKILL):
            os._exit(1)

    def _obey_the_trainer(self) -> None:
        """End at the trainer's own SIGTERM (`Process.terminate`); anybody else's is for the trainer."""
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != self.trainer:
            pass
        os._exit(0)
