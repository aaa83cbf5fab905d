"""Figures as people read them: smoothed rates, durations, percentages, counts, and text that no terminal obeys."""

import math
from collections.abc import Callable


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
