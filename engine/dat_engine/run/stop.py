"""Stop between two steps when the system, the user or a time limit asks for it."""

import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

from dat_engine.errors import UserError

_UNIT_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile(r"\s*".join(rf"(?:({_NUMBER})\s*{unit})?" for unit in _UNIT_SECONDS))


def parse_duration(text: str) -> float:
    """Seconds in `text`: days, hours, minutes, seconds in this order (`9m`, `90s`, `1h30m`, `1.5h`), or plain seconds.

    Raises UserError for anything else and for a duration that is zero or not finite.
    """
    compact = text.strip().lower()
    if re.fullmatch(_NUMBER, compact):
        seconds = float(compact)
    else:
        match = _DURATION.fullmatch(compact)
        if not compact or match is None:
            raise UserError(f"{text!r} is not a duration; write it like 90s, 9m, 1h30m or as plain seconds")
        numbers = [float(number or 0) for number in match.groups()]
        seconds = sum(number * unit for number, unit in zip(numbers, _UNIT_SECONDS.values(), strict=True))
    if not 0 < seconds < math.inf:
        raise UserError(f"a duration of {text!r} leaves no time, or has no end; write it like 90s, 9m or 1h30m")
    return seconds


def process_start() -> float:
    """When this process began, on the clock of time.monotonic: seconds before any import; now where unknown."""
    try:
        # the command in parentheses may contain spaces; starttime is field 22, in clock ticks since boot
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic()
    return time.monotonic() - max(age, 0.0)


_ECHO_SECONDS = 2.0
"""Within this time a signal that comes again is the same request: GNU timeout signals its child and then the child's whole
group, torchrun passes on to its workers what the group has received already."""


class Stopped(Exception):
    """Work that looks at a `Stop` between its parts has been left between two of them, for the reason in `ending`."""

    def __init__(self, ending: Literal["signal", "time limit"]) -> None:
        super().__init__(f"stopped: {ending}")
        self.ending = ending


class Stop:
    """Within the context, the first SIGTERM or SIGINT only sets `reason`; a second one ends at once.

    At once: SIGINT raises KeyboardInterrupt and SIGTERM SystemExit(143), whichever came first. A signal that a launcher
    repeats within two seconds (SIGTERM always, SIGINT under torchrun) counts once.

    `time_limit` seconds after `started` (on `clock`; default: now) `reason` becomes "time limit". `launcher`: the process
    that started this one and whose end is one for this one too; once it has gone, `reason` is "signal", as if it had
    passed SIGTERM on. The handlers that were there come back on leaving. A SIGINT that the process ignores (nohup, background
    jobs) stays ignored. Outside the main thread, where Python allows no handlers, no signal is seen. Forked children ignore
    both signals: who forks, ends its children (`dat_engine.data.loaders.workers`).
    """

    def __init__(
        self,
        *,
        time_limit: float | None = None,
        started: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        launcher: int | None = None,
    ) -> None:
        self._clock = clock
        self.deadline = None if time_limit is None else (clock() if started is None else started) + time_limit
        self.signal_number: int | None = None
        self._received_at = 0.0
        self._launcher = launcher
        self._previous: dict[int, Any] = {}
        self._process = 0

    @property
    def reason(self) -> Literal["signal", "time limit"] | None:
        """Why to stop, None to go on; a signal outranks the time limit. Cheap enough for every step."""
        if self.signal_number is not None or (self._launcher is not None and os.getppid() != self._launcher):
            return "signal"
        if self.deadline is not None and self._clock() >= self.deadline:
            return "time limit"
        return None

    @property
    def seconds_left(self) -> float | None:
        """Until the time limit, never negative; None without one."""
        return None if self.deadline is None else max(self.deadline - self._clock(), 0.0)

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM, 130 after SIGINT, else 0: a run stopped by its time limit has done what was asked."""
        if self.reason != "signal":
            return 0
        return 128 + (self.signal_number or signal.SIGTERM)

    def __enter__(self) -> Self:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            # None: a handler that was not installed from Python, which Python cannot put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number, self._received_at = number, now
            return
        echoes = under_torchrun() or number == self.signal_number == signal.SIGTERM
        if echoes and now - self._received_at < _ECHO_SECONDS:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launcher() -> int | None:
    """The torchrun that started this process; None for a process that stands alone.

    Alone, the end of the parent means nothing: a shell that has closed, nohup.
    """
    return os.getppid() if under_torchrun() else None
