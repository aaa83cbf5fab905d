"""A run as its caller gets it: where it is, how it ended, what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from dat.evaluation import TITLES
from dat.recipes import Recipe
from dat.training.trained import load_model
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.trainer import Ending


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Run:
    """What a training has left behind; figures and weights are read from its folder when they are asked for."""

    path: Path
    """The run directory."""
    recipe: Recipe
    ending: Ending
    """finished, step limit (`max_steps`), time limit or signal; after the last two nothing was evaluated."""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """Percent on the test images by attack; empty where the run was stopped before its evaluation."""
    stop_signal: int | None = None
    """The signal that stopped the run."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dictionary for every epoch: the rows of metrics.jsonl that end one, ``epoch_loss``, ``validation_pgd20``, …"""
        return RunDirectory.open(self.path).metrics.epoch_rows()

    @property
    def summary(self) -> dict[str, Any] | None:
        """summary.json; None where the run was stopped before its evaluation."""
        return RunDirectory.open(self.path).read_summary()

    @cached_property
    def model(self) -> nn.Module:
        """`dat.load_model` of this run: in eval mode, on the CPU, read once."""
        return load_model(self.path)

    def __repr__(self) -> str:
        reached = ", ".join(f"{TITLES[name]} {percent:.1f} %" for name, percent in self.accuracy.items())
        return f"<Run {self.path}: {self.recipe.name} {self.recipe.method}, {self.ending}{reached and ': '}{reached}>"
