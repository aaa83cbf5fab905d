"""What `dat profile` measures and where it writes; apart from it, because flags are read before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dat_engine.errors import UserError

ROUNDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileOptions:
    """What is measured and where it is written; not part of the experiment."""

    methods: str = "dat,pgd-at,trades"
    """Comma-separated; `dat recipes` lists them. pgd-at is what the others are compared with."""
    baseline: Literal["eager"] | None = None
    """eager: also time DAT and PGD-AT-10 as published code runs them, in float32, on the same data."""
    steps: int | None = None
    """Steps of each method per round; None: as many as take about a second."""
    rounds: int = ROUNDS
    """Every method has one turn per round; figures are medians over the rounds."""
    json: Path | None = None
    """File for everything measured, with the recipe, versions and hardware."""
    picture: Path | None = None
    """File for stacked bars of the phases: .svg or .png; needs matplotlib."""
    trace: Path | None = None
    """File for the profiled steps as a Chrome trace, for ui.perfetto.dev."""
    data_root: Path = Path("data")
    """Folder that holds (or will hold, after a download) the data set."""
    device: str | None = None
    """cpu, cuda or cuda:N; None: the GPU where there is one."""

    def __post_init__(self) -> None:
        for name in ("steps", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; got {value}")
