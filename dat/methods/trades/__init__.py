"""Settings of TRADES; `dat.methods.trades.method` is what it does."""

from __future__ import annotations

from dataclasses import dataclass

from dat.methods.base import MethodEntry
from dat.methods.checks import check_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class TRADES:
    """Settings of TRADES."""

    beta: float = 6.0
    """Weight of the KL divergence in the loss."""
    steps: int = 10
    step_size: float | None = None
    """None: 0.007 / (8/255) = 0.223 of epsilon, which is the published 0.007 at the published epsilon."""
    start_scale: float = 0.001
    """Standard deviation of the gaussian start."""

    def __post_init__(self) -> None:
        check_weights(beta=self.beta)


ENTRY = MethodEntry(
    implementation="dat.methods.trades.method:TRADESMethod",
    settings=TRADES(),
    epochs=100,
    milestones=(75, 90),
    summary="TRADES: clean cross entropy plus the KL divergence to the attacked prediction",
)
