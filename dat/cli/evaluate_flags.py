"""The flags of ``dat evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dat.cli.flags import parse_flags
from dat.seed import check_seed
from dat_engine.errors import UserError

USAGE = "dat evaluate RUN_OR_CHECKPOINT [--attacks …] [--json]"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateFlags:
    """Accuracy of a trained classifier on its test split."""

    source: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one of its checkpoint files."""
    attacks: str = "natural,fgsm,pgd20,pgd100,cw"
    """Comma-separated, out of natural, fgsm, pgd20, pgd100, cw, aa (AutoAttack standard)."""
    epsilon: float | None = None
    """L-infinity radius, 8/255 for instance; None: the recipe's."""
    limit: int | None = None
    """Number of test images, classes balanced; None: all."""
    batch_size: int = 256
    seed: int = 0
    data_root: Path | None = None
    """Folder that holds the data set; None: the one that the run was trained with."""
    device: str | None = None
    """cpu, cuda or cuda:N; None: the GPU where there is one."""
    weights: Literal["raw", "ema", "swa"] | None = None
    """The trained weights or an average of them; None: those that the run evaluates (swa, else ema, else raw)."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON instead of a table."""
    save_predictions: Path | None = None
    """CSV file for the class predicted for every image: index, target, then NAME and NAME_correct (0 or 1) per attack."""

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; got {value}")
        check_seed(self.seed)
        if self.epsilon is not None and not 0 < self.epsilon <= 1:
            raise UserError(f"epsilon must lie in (0, 1], images being in [0, 1]; got {self.epsilon:g}")


def parse_evaluate_flags(arguments: Sequence[str]) -> EvaluateFlags:
    """Command-line words after ``dat evaluate`` -> what to evaluate, and how.

    Raises:
        UserError: nothing named, an unknown flag, a value out of range.
        SystemExit: after ``--help``.
    """
    if not arguments:
        raise UserError(f"name what to evaluate: {USAGE}")
    return parse_flags(EvaluateFlags, arguments, command="dat evaluate")
