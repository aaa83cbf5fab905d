"""Named parts of a step, visible in every torch profile and in the traces made from it; free when nothing profiles."""

from __future__ import annotations

from torch.profiler import record_function

PHASES = ("data", "clean forward", "mix", "attack", "joint", "optimiser")
PREFIX = "dat-engine: "


def phase(name: str) -> record_function:
    """Context manager around one of `PHASES`."""
    assert name in PHASES
    return record_function(PREFIX + name)
