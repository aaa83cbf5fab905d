"""What the settings of several methods refuse alike."""

from __future__ import annotations

import math

from dat_engine.errors import UserError


def check_weights(**weights: float) -> None:
    """Raise UserError, naming all of them, unless these weights of a loss's terms are finite and not negative."""
    if not all(0 <= weight < math.inf for weight in weights.values()):
        values = " and ".join(f"{weight:g}" for weight in weights.values())
        raise UserError(f"{' and '.join(weights)} must be finite and not negative; got {values}")


def check_label_smoothing(label_smoothing: float) -> None:
    """Raise UserError unless it lies in [0, 1)."""
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing must lie in [0, 1); got {label_smoothing:g}")
