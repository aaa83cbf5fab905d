"""The display on a terminal: a header, a table that grows by one row per epoch, and below it a live bar."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from dat_engine.run.display.figures import (
    SmoothedRates,
    format_count,
    format_duration,
    format_epoch,
    format_field,
    format_loss,
    format_percent,
    printable,
)
from dat_engine.run.display.interface import Display, EpochRow

_COLUMNS = (("epoch", 9), ("loss", 8), ("robust train", 12), ("natural", 8), ("PGD-20", 8), ("lr", 8), ("time", 8))
_REDRAW_INTERVAL = 0.1  # seconds


class TerminalDisplay(Display):
    """The live display. Draws from the caller's thread only, at most ten times a second."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._rates = SmoothedRates(clock)
        self._drawn = -_REDRAW_INTERVAL
        self._epochs: int | None = None
        self._live: _EpochBar | None = None
        self._has_table_head = False

    def start(self, title_fields: Mapping[str, object], *, epochs: int | None = None) -> None:
        self._epochs = epochs
        title = Text()
        for name, value in title_fields.items():
            title.append(self._glyph(" · ", ", ") if title else "", style="dim")
            title.append(f"{self._shown(name)} ", style="dim")
            title.append(self._shown(format_field(value)), style="bold cyan")
        self._print(Text(), title, Text())

    def step(
        self,
        epoch: int,
        step_in_epoch: int,
        steps_per_epoch: int,
        loss: float,
        accuracy: float | None,
        images_per_second: float,
        seconds_left: float | None,
    ) -> None:
        self._rates.add(images_per_second, seconds_left)
        now = self._clock()
        if now - self._drawn < _REDRAW_INTERVAL and step_in_epoch < steps_per_epoch:
            return
        self._drawn = now
        figures = Text.assemble(
            ("loss ", "dim"),
            format_loss(loss),
            ("   robust ", "dim"),
            format_percent(accuracy),
            "   ",
            format_count(self._rates.images_per_second),
            (" images/s", "dim"),
        )
        with _undisturbed():
            self._begun().show_step(
                step_in_epoch,
                steps_per_epoch,
                epoch=f"epoch {format_epoch(epoch, self._epochs)}",
                left=f"{format_duration(self._rates.seconds_left)} left",
                below=figures,
            )

    def activity(self, text: str) -> None:
        with _undisturbed():
            self._begun().show_below(Text(self._shown(text), style="dim italic"))

    def epoch_end(self, row: EpochRow) -> None:
        if not self._has_table_head:
            self._has_table_head = True
            head = self._table_line([Text(name, style="bold") for name, _ in _COLUMNS])
            self._print_cropped(head)
            self._print_cropped(Text(self._glyph("─", "-") * head.cell_len, style="dim"))
        cells = [
            format_epoch(row.epoch, row.epochs),
            format_loss(row.loss),
            format_percent(row.robust_train_accuracy),
            format_percent(row.natural_accuracy),
            format_percent(row.pgd20_accuracy),
            f"{row.lr:.3g}",
            format_duration(row.seconds),
        ]
        line = self._table_line([Text(cell, style="bold green" if row.best else "") for cell in cells])
        if row.best:
            line.append(self._glyph(" ★", " *"), style="bold yellow")
        self._print_cropped(line)

    def note(self, text: str) -> None:
        self._print(Text(self._shown(text)))

    def warn(self, text: str) -> None:
        self._print(Text.assemble(("warning: ", "bold yellow"), (self._shown(text), "yellow")))

    def summary(self, accuracies: Mapping[str, float], *, title: str = "accuracy") -> None:
        table = Table(box=box.ROUNDED, title=Text(self._shown(title), style="bold"), show_header=False)
        table.add_column()
        table.add_column(justify="right", style="bold")
        for name, accuracy in accuracies.items():
            table.add_row(Text(self._shown(name)), format_percent(accuracy))
        self.close()
        self._print(Text(), table)

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with _undisturbed():
                live.stop()

    def _shown(self, text: str) -> str:
        return printable(text, self._console.encoding)

    def _glyph(self, symbol: str, substitute: str) -> str:
        return substitute if self._console.options.ascii_only else symbol

    def _table_line(self, cells: Sequence[Text]) -> Text:
        for cell, (_, width) in zip(cells, _COLUMNS, strict=True):
            cell.align("right", width)
        return Text("  " if self._console.width >= 80 else " ").join(cells)

    def _print(self, *renderables: RenderableType) -> None:
        with _undisturbed():
            for renderable in renderables:
                self._console.print(renderable)

    def _print_cropped(self, line: Text) -> None:
        with _undisturbed():
            self._console.print(line, no_wrap=True, overflow="crop", crop=True)

    def _begun(self) -> "_EpochBar":
        if self._live is None:
            self._live = _EpochBar(self._console, self._clock)
            self._live.start()
        return self._live


class _EpochBar(Progress):
    """One bar, for the steps of an epoch, and a line below it."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._below: RenderableType | None = None
        super().__init__(
            TextColumn("{task.fields[epoch]}", style="bold", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", style="cyan", markup=False),
            console=console,
            # no refresh thread: it could hold the console's lock when a loader forks, and hang the worker
            auto_refresh=False,
            transient=True,
            get_time=clock,
            expand=True,
        )

    def show_step(self, step: int, steps: int, *, epoch: str, left: str, below: RenderableType) -> None:
        if not self.task_ids:
            self.add_task("", epoch=epoch, left=left)
        self.update(self.task_ids[0], completed=step, total=steps, epoch=epoch, left=left)
        self.show_below(below)

    def show_below(self, line: RenderableType) -> None:
        self._below = line
        self.refresh()

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.tasks:
            yield self.make_tasks_table(self.tasks)
        if self._below is not None:
            yield self._below


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A terminal that has gone away must not take the run with it."""
    with contextlib.suppress(OSError, ValueError):
        yield
