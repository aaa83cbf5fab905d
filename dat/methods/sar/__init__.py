"""Settings of spectral alignment regularization; `dat.methods.sar.method` is what it does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dat.methods.base import MethodEntry
from dat.methods.checks import check_weights
from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class SAR:
    """Settings of spectral alignment regularization."""

    weight: float = 0.1
    """Weight of the distance between the two spectra."""
    start: float = 75.0
    """Epochs after which the distance joins the loss; before, it is that of PGD-AT."""
    spectrum: Literal["sample", "batch"] = "sample"
    """Transform of the logits: each image's over its classes (the paper's text), or one in two dimensions over batch and
    classes (its authors' code; with many processes each one's own batch)."""
    steps: int = 10
    step_size: float | None = None
    """None: a quarter of epsilon."""

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        if not 0 <= self.start < math.inf:
            raise UserError(f"start is in epochs, counted from 0; got {self.start:g}")


ENTRY = MethodEntry(
    implementation="dat.methods.sar.method:SARMethod",
    settings=SAR(),
    epochs=100,
    milestones=(75, 90),
    epoch_settings=("start",),
    recipe_defaults={"swa.start": 75.0},
    summary="SAR: PGD-AT that aligns the spectra of clean and attacked logits, from an epoch on",
)
