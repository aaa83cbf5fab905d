"""What a sweep says while its runs run: a line when one begins, after each of its epochs, and when it ends."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

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
        self._seen: dict[str, int] = {}
        self._now: dict[str, str] = {}

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(Text(printable(text, self._console.encoding)), soft_wrap=True)

    def begins(self, number: int, run: SweepRun, what: str) -> None:
        """The run `number` (from 1) begins or goes on."""
        self.say(f"[{number}/{self._total}] {run}: {what}")

    def follow(self, number: int, run: SweepRun, path: Path) -> None:
        """Look whether the run at `path` has ended an epoch since the last look."""
        log = path / "metrics.jsonl"
        size = log.stat().st_size if log.exists() else 0
        if size == self._seen.get(run.name + str(run.seed)):
            return
        self._seen[run.name + str(run.seed)] = size
        rows = epoch_rows(path)
        text = f"[{number}/{self._total}] {run}: "
        if not rows:
            return
        row = rows[-1]
        parts = [
            f"epoch {row['epoch']} of {run.recipe.epochs}",
            f"loss {format_loss(row['epoch_loss'] or float('nan'))}",
        ]
        if row.get("validation_pgd20") is not None:
            parts.append(f"PGD-20 {format_percent(row['validation_pgd20'])}")
        parts.append(f"{format_duration(row['seconds'])} of training")
        text += ", ".join(parts)
        if self._now.get(str(run)) == text:
            return
        self._now[str(run)] = text
        if self._status is None:
            self.say(text)
        else:
            self._status.update("  ".join(self._now.values()))

    def ends(self, number: int, run: SweepRun, what: str) -> None:
        """The run has ended; how, stays."""
        self._now.pop(str(run), None)
        if self._status is not None:
            self._status.update("  ".join(self._now.values()))
        self.say(f"[{number}/{self._total}] {run}: {what}")

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
