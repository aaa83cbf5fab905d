"""Settings of IDBH: PGD adversarial training on images augmented more, and on an average of the weights.

What it adds to PGD-AT is the recipe's (`data.augmentation`, `ema.decay`), so it does what `dat.methods.pgd_at.method` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dat.methods import pgd_at


@dataclass(frozen=True, kw_only=True, slots=True)
class IDBH(pgd_at.PGDAT):
    """Settings of IDBH."""


ENTRY = replace(
    pgd_at.ENTRY,
    settings=IDBH(),
    recipe_defaults={"data.augmentation": "idbh", "ema.decay": 0.999},
    summary="IDBH: PGD-AT with CropShift, ColorShape and random erasing, on an average of the weights",
)
