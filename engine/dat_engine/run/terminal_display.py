"""The display on a terminal: a header, a table that grows by one row per epoch, and below it a live bar."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dat_engine.run.display import (
    EpochRow,
    Progress,
    SmoothedRates,
    format_count,
    format_duration,
    format_epoch,
    format_field,
    format_loss,
    format_percent,
    printable,
)

_COLUMNS = (("epoch", 9), ("loss", 8), ("robust train", 12), ("natural", 8), ("PGD-20", 8), ("lr", 8), ("time", 8))
_REDRAW_INTERVAL = 0.1  # seconds


class TerminalProgress(Progress):
    """The live display. Draws from the caller's thread only, at most ten times a second."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._rates = SmoothedRates(clock)
        self._drawn = -_REDRAW_INTERVAL
        self._epochs: int | None = None
        self._live: Live | None = None
        self._bar: Table | None = None
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
        self._bar = Table.grid(padding=(0, 1), expand=True)
        for ratio in (None, 1, None, None):
            self._bar.add_column(ratio=ratio, no_wrap=True)
        self._bar.add_row(
            Text(f"epoch {format_epoch(epoch, self._epochs)}", style="bold"),
            ProgressBar(total=steps_per_epoch, completed=step_in_epoch),
            Text(f"{step_in_epoch}/{steps_per_epoch}"),
            Text(f"{format_duration(self._rates.seconds_left)} left", style="cyan"),
        )
        figures = Text.assemble(
            ("loss ", "dim"),
            format_loss(loss),
            ("   robust ", "dim"),
            format_percent(accuracy),
            "   ",
            format_count(self._rates.images_per_second),
            (" images/s", "dim"),
        )
        self._draw(Group(self._bar, figures))

    def activity(self, text: str) -> None:
        status = Text(self._shown(text), style="dim italic")
        self._draw(status if self._bar is None else Group(self._bar, status))

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
        live, self._live, self._bar = self._live, None, None
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

    def _draw(self, renderable: RenderableType) -> None:
        with _undisturbed():
            if self._live is None:
                # no refresh thread: it could hold the console's lock when a loader forks, and hang the worker
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(renderable, refresh=True)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A terminal that has gone away must not take the run with it."""
    with contextlib.suppress(OSError, ValueError):
        yield
