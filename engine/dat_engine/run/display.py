"""What a person sees of a training run: on a terminal a live bar and a table, elsewhere plain lines."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Literal, Self

from rich.console import Console

PLAIN_INTERVAL = 30.0  # seconds between two lines inside an epoch, where lines are all there is


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """One epoch's line of the table. Accuracies in percent, `seconds` of training; None: not measured this epoch."""

    epoch: int  # counted from 1
    epochs: int
    loss: float
    robust_train_accuracy: float
    natural_accuracy: float | None = None
    pgd20_accuracy: float | None = None
    lr: float
    seconds: float
    best: bool = False


class Progress:
    """The display's interface; this class itself is the silent display. A context manager: leaving it closes it."""

    def start(self, title_fields: Mapping[str, object], *, epochs: int | None = None) -> None:
        """Show once what is run: recipe, method, device, precision, parameters, in the order given, ints grouped."""

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
        """Report a step; `epoch` and `step_in_epoch` count from 1, `accuracy` (robust, on the batch) is in percent.

        `seconds_left` is for the whole run. Rates are smoothed here: give them as measured since the last call.
        """

    def activity(self, text: str) -> None:
        """Name what goes on between steps ("validating", "capturing the graph"), until the next step."""

    def epoch_end(self, row: EpochRow) -> None:
        """Add a permanent row."""

    def note(self, text: str) -> None:
        """Show a line that stays."""

    def warn(self, text: str) -> None:
        """Show a line that stays and is marked as a warning."""

    def summary(self, accuracies: Mapping[str, float], *, title: str = "accuracy") -> None:
        """Show the final table: accuracy in percent by attack."""

    def close(self) -> None:
        """Leave the terminal as it was; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_progress(
    style: Literal["auto", "terminal", "plain", "silent"] = "auto", *, console: Console | None = None
) -> Progress:
    """The display of that style on `console` (default: standard output); "auto" takes what the console can show."""
    if style == "silent":
        return Progress()
    console = console or Console()
    if style == "plain" or (style == "auto" and (not console.is_terminal or console.is_dumb_terminal)):
        return PlainProgress(console.file)
    from dat_engine.run.terminal_display import TerminalProgress  # imports this module

    return TerminalProgress(console)


class PlainProgress(Progress):
    """Lines of plain text: one per epoch, one every 30 seconds inside an epoch; no control characters.

    Never stops a run: when the stream is closed or broken it falls silent, and what its encoding lacks is escaped.
    """

    def __init__(self, stream: IO[str] | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._last_line = clock()
        self._epochs: int | None = None
        self._rates = SmoothedRates(clock)

    def start(self, title_fields: Mapping[str, object], *, epochs: int | None = None) -> None:
        self._epochs = epochs
        self._line("  ".join(f"{name} {format_field(value)}" for name, value in title_fields.items()))

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
        if self._clock() - self._last_line >= PLAIN_INTERVAL:
            self._line(
                f"epoch {format_epoch(epoch, self._epochs)}  step {step_in_epoch}/{steps_per_epoch}  "
                f"loss {format_loss(loss)}  robust {format_percent(accuracy)}  "
                f"{format_count(self._rates.images_per_second)} images/s  "
                f"{format_duration(self._rates.seconds_left)} left"
            )

    def epoch_end(self, row: EpochRow) -> None:
        self._line(
            f"epoch {format_epoch(row.epoch, row.epochs)} done  loss {format_loss(row.loss)}  "
            f"robust train {format_percent(row.robust_train_accuracy)}  "
            f"natural {format_percent(row.natural_accuracy)}  PGD-20 {format_percent(row.pgd20_accuracy)}  "
            f"lr {row.lr:.3g}  time {format_duration(row.seconds)}" + ("  best" if row.best else "")
        )

    def note(self, text: str) -> None:
        self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}")

    def summary(self, accuracies: Mapping[str, float], *, title: str = "accuracy") -> None:
        self._line(title)
        width = max((len(name) for name in accuracies), default=0)
        for name, accuracy in accuracies.items():
            self._line(f"  {name:<{width}}  {format_percent(accuracy):>8}")

    def _line(self, text: str) -> None:
        self._last_line = self._clock()
        with contextlib.suppress(OSError, ValueError):  # a reader that went away (`| head`), or a closed stream
            self._stream.write(printable(text, getattr(self._stream, "encoding", None)) + "\n")
            self._stream.flush()


class SmoothedRates:
    """Images per second and time left as running means over about ten seconds, so that the figures can be read."""

    def __init__(self, clock: Callable[[], float], *, time_constant: float = 10.0) -> None:
        self._clock = clock
        self._time_constant = time_constant
        self._updated = clock()
        self._end: float | None = None
        self.images_per_second: float | None = None

    @property
    def seconds_left(self) -> float | None:
        return None if self._end is None else max(self._end - self._clock(), 0.0)

    def add(self, images_per_second: float, seconds_left: float | None) -> None:
        now = self._clock()
        weight = 1 - math.exp(-(now - self._updated) / self._time_constant)
        self._updated = now
        self.images_per_second = _blend(self.images_per_second, images_per_second, weight)
        if seconds_left is not None:
            # it is the end that stands still while the time left runs down, so the end is what can be averaged
            self._end = _blend(self._end, now + seconds_left, weight)


def _blend(old: float | None, new: float, weight: float) -> float | None:
    if not math.isfinite(new):
        return old
    return new if old is None else old + weight * (new - old)


def format_duration(seconds: float | None) -> str:
    """`8.2 s`, `42 s`, `12:34` (minutes), `1:02:03` (hours), `2d 03:04:05`; a dash for None and what is not finite."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours == 0:
        return f"{minute}:{second:02d}"
    days, hour = divmod(hours, 24)
    return f"{days}d {hour:02d}:{minute:02d}:{second:02d}" if days else f"{hour}:{minute:02d}:{second:02d}"


def format_percent(value: float | None) -> str:
    """`45.67%`; a dash for None and nan."""
    return "-" if value is None or math.isnan(value) else f"{value:.2f}%"


def format_loss(value: float) -> str:
    """`2.3456`; three digits and an exponent from 1000 on, so that it keeps to its column."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def format_count(value: float | None) -> str:
    """Whole and grouped, `12,345`, with one digit behind the point below 100; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def format_epoch(epoch: int, epochs: int | None) -> str:
    return str(epoch) if epochs is None else f"{epoch}/{epochs}"


def format_field(value: object) -> str:
    """A title field: integers grouped, the rest as str."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def printable(text: str, encoding: str | None) -> str:
    """`text` with everything escaped that a terminal would obey, line ends apart, or that `encoding` lacks."""
    obeyed_escaped = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    return obeyed_escaped.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
