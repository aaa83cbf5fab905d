"""Numbers as people write them: epsilon is ``8/255`` in every paper."""

from __future__ import annotations

__all__ = ["parse_number"]


def parse_number(text: str) -> float:
    """``"0.031"``, ``"1e-3"`` or a fraction, ``"8/255"``.

    Raises:
        ValueError: anything else, and a fraction of nought.
    """
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number; write it like 0.031, 1e-3 or 8/255") from None
