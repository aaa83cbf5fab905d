"""What a sweep says while its runs run: a line when one begins, after each of its epochs, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.text import Text

from dat.sweep.file import SweepRun
from dat.sweep.run_folder import epoch_rows
from dat_engine.run.display.figures import format_duration, format_loss, format_percent, printable


class Progress:
    """Lines on `console`; on a terminal what the runs do at the moment stands in one line that changes.

    A context manager: leaving it clears that line.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._status = console.status("") if console.is_terminal and not console.is_jupyter else None
        self._sizes: dict[Path, int] = {}
        self._epochs: dict[Path, int] = {}
        self._now: dict[Path, str] = {}

    def begins(self, number: int, run: SweepRun, what: str, path: Path) -> None:
        """The run `number` (from 1) begins or goes on at `path`."""
        self._sizes[run.folder] = _size(path)
        self._say(number, run, what)
        self._show(run, what)

    def follow(self, number: int, run: SweepRun, path: Path) -> None:
        """Look whether the run at `path` has ended an epoch since the last look."""
        size = _size(path)
        if size == self._sizes.get(run.folder):
            return
        self._sizes[run.folder] = size
        rows = epoch_rows(path)
        if not rows or rows[-1]["epoch"] == self._epochs.get(run.folder):
            return
        self._epochs[run.folder] = rows[-1]["epoch"]
        text = _epoch(rows[-1], run.recipe.epochs)
        if self._status is None:
            self._say(number, run, text)
        else:
            self._show(run, text)

    def ends(self, number: int, run: SweepRun, what: str) -> None:
        """The run has ended, or needs not begin."""
        self._now.pop(run.folder, None)
        self._say(number, run, what)

    def _show(self, run: SweepRun, what: str) -> None:
        self._now[run.folder] = f"{run}: {what}"
        if self._status is not None:
            self._status.update(Text("; ".join(self._now.values())))

    def _say(self, number: int, run: SweepRun, what: str) -> None:
        text = printable(f"[{number}/{self._total}] {run}: {what}", self._console.encoding)
        self._console.print(Text(text), soft_wrap=True)

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()


def _size(path: Path) -> int:
    """Bytes of a run's metrics.jsonl."""
    log = path / "metrics.jsonl"
    return log.stat().st_size if log.exists() else 0


def _epoch(row: Mapping[str, Any], epochs: int) -> str:
    """What the row that ends an epoch says."""
    loss, robust = row["epoch_loss"], row.get("validation_pgd20")
    parts = [f"epoch {row['epoch']} of {epochs}", f"loss {'-' if loss is None else format_loss(loss)}"]
    if robust is not None:
        parts.append(f"PGD-20 {format_percent(robust)}")
    return ", ".join([*parts, f"{format_duration(row['seconds'])} of training"])
