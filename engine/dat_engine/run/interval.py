"""How often a checkpoint is written, as a flag says it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from dat_engine.errors import UserError
from dat_engine.run.stop import parse_duration


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """How often a checkpoint is written within an epoch: every so many steps, or every so many seconds."""

    steps: int | None = None
    seconds: float | None = None


EPOCHS_ONLY = Interval()


def parse_interval(text: str) -> Interval:
    """``"500"`` is steps, ``"10m"`` a duration, ``"epoch"`` neither: at the ends of epochs only.

    Raises:
        UserError: anything else, and nothing at all.
    """
    compact = text.strip().lower()
    if compact == "epoch":
        return EPOCHS_ONLY
    if compact.isascii() and compact.isdigit():
        if int(compact) < 1:
            raise UserError(
                f"checkpoints every {text} steps are none; write a number of steps, a duration like 10m, or epoch"
            )
        return Interval(steps=int(compact))
    try:
        return Interval(seconds=parse_duration(compact))
    except UserError:
        raise UserError(
            f"{text!r} does not say how often to write a checkpoint; write a number of steps (500), a duration (10m) or epoch"
        ) from None
