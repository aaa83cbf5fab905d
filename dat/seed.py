"""The seed of random numbers, as the command line and calls from Python take it."""

from __future__ import annotations

from numbers import Integral

from dat_engine.errors import UserError


def check_seed(seed: object, *, below: int = 2**63) -> None:
    """Raise UserError unless `seed` is a whole number, one of NumPy's too, that every generator takes.

    `below` is less where other seeds are made of it by addition.
    """
    if not isinstance(seed, Integral) or not 0 <= int(seed) < below:
        raise UserError(f"seed must be a non-negative 63-bit number; got {seed!r}")
