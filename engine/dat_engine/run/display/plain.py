"""The display where there is no terminal: plain lines."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO

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

PLAIN_INTERVAL = 30.0  # seconds between two lines inside an epoch, where lines are all there is


class PlainDisplay(Display):
    """Lines of plain text: one per epoch, one every 30 seconds inside an epoch; no control characters.

    Never stops a run: when the stream is missing, closed or broken it is silent, and what its encoding lacks is escaped.
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
        if self._stream is None:  # a process without a standard output: a daemon
            return
        with contextlib.suppress(OSError, ValueError):  # a reader that went away (`| head`), or a closed stream
            self._stream.write(printable(text, getattr(self._stream, "encoding", None)) + "\n")
            self._stream.flush()
