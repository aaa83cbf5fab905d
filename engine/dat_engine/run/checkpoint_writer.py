"""Checkpoints written beside training: the step's thread takes a snapshot, another one makes it durable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dat_engine.run.checkpoint import CheckpointFolder
from dat_engine.run.interval import Interval
from dat_engine.run.snapshot import Snapshot


class CheckpointWriter:
    """Writes into a `CheckpointFolder`, one checkpoint at a time, in a thread of its own.

    An error of that thread is raised in the step's thread, by the next call of any method. Used by one process of a run.
    """

    def __init__(
        self, folder: CheckpointFolder, interval: Interval, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self.interval = interval
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._step = 0
        self._time = clock()

    def start_from(self, step: int) -> None:
        """Count the interval from here."""
        self._step, self._time = step, self._clock()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint within the epoch should be written after this step; not while the last one is under way.

        Raises:
            CheckpointError: the last one could not be written.
        """
        self.raise_failed()
        if self._thread is not None and self._thread.is_alive():
            return False
        if self.interval.steps is not None:
            return step - self._step >= self.interval.steps
        return self.interval.seconds is not None and self._clock() - self._time >= self.interval.seconds

    def save(
        self, state: Mapping[str, Any], *, step: int, epoch: int, best: bool = False, passing: bool = False
    ) -> None:
        """Take a snapshot of `state` and write it; waits for the one before, if that is still under way.

        Args:
            best: write it as the best checkpoint too, and first.
            passing: leave it be, once it is on the host, where the last steps were not finite: what is on disk is then from
                before they began.
        """
        self.wait()
        snapshot = Snapshot(state)
        self.start_from(step)
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, step, epoch, best, passing), name="checkpoint", daemon=False
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is under way.

        Raises:
            CheckpointError: the last one could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_failed()

    def raise_failed(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, snapshot: Snapshot, step: int, epoch: int, best: bool, passing: bool) -> None:
        try:
            state = snapshot.on_host()
            if passing and int(state["training"]["guard"]["consecutive"]) > 0:
                return
            if best:
                self.folder.save_best(state)
            self.folder.save(state, step=step, epoch=epoch)
        except BaseException as error:
            self._error = error
