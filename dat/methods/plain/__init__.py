"""Settings of plain training; `dat.methods.plain.method` is what it does."""

from __future__ import annotations

from dataclasses import dataclass

from dat.methods.base import MethodEntry
from dat.methods.checks import check_label_smoothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    """Settings of plain training."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_label_smoothing(self.label_smoothing)


ENTRY = MethodEntry(
    implementation="dat.methods.plain.method:PlainMethod",
    settings=Plain(),
    epochs=200,
    milestones=(100, 150),
    select_by="natural",
    summary="plain training on clean images: the reference point, not robust",
)
