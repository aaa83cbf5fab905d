"""Settings of PGD adversarial training; `dat.methods.pgd_at.method` is what it does."""

from __future__ import annotations

from dataclasses import dataclass

from dat.methods.base import MethodEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class PGDAT:
    """Settings of PGD adversarial training."""

    steps: int = 10
    step_size: float | None = None
    """None: a quarter of epsilon."""


ENTRY = MethodEntry(
    implementation="dat.methods.pgd_at.method:PGDATMethod",
    settings=PGDAT(),
    epochs=200,
    milestones=(100, 150),
    summary="PGD adversarial training: cross entropy on attacked images",
)
