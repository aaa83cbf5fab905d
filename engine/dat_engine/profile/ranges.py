"""Named parts of a step, visible in every torch profile and in the traces made from it; free when nothing profiles."""

from __future__ import annotations

from torch.profiler import record_function

RANGES = ("data", "clean forward", "mix", "attack", "joint", "optimizer")
PREFIX = "dat-engine: "


def named_range(name: str) -> record_function:
    """Context manager around one of `RANGES`."""
    assert name in RANGES
    return record_function(PREFIX + name)
