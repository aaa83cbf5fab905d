"""Settings of plain training; `dat.methods.plain.method` is what it does."""

from __future__ import annotations

from dataclasses import dataclass

from dat.methods.base import MethodEntry
from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    """Settings of plain training."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1); got {self.label_smoothing:g}")


ENTRY = MethodEntry(
    implementation="dat.methods.plain.method:PlainMethod",
    settings=Plain(),
    epochs=200,
    milestones=(100, 150),
    select_by="natural",
    summary="plain training on clean images: the reference point, not robust",
)
