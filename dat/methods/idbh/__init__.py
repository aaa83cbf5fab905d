"""Settings of IDBH: PGD adversarial training on images augmented more, and on an average of the weights.

What it adds to PGD-AT is the recipe's (`data.augmentation`, `ema.decay`), so it does what `dat.methods.pgd_at.method` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from dat.methods.base import MethodEntry
from dat.methods.pgd_at import PGDAT


@dataclass(frozen=True, kw_only=True, slots=True)
class IDBH(PGDAT):
    """Settings of IDBH."""


ENTRY = MethodEntry(
    implementation="dat.methods.pgd_at.method:PGDATMethod",
    settings=IDBH(),
    epochs=200,
    milestones=(100, 150),
    recipe_defaults={"data.augmentation": "idbh", "ema.decay": 0.999},
    summary="IDBH: PGD-AT with CropShift, ColorShape and random erasing, on an average of the weights",
)
