"""How a method is registered: what recipes and the command line know of it before torch is imported."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodEntry:
    """A method as recipes see it."""

    implementation: str
    """Class of the method as ``"module:Class"``, imported when it is first asked for."""
    settings: Any
    """Default settings: a frozen dataclass; each of its fields becomes a flag of ``dat train``."""
    epochs: int
    milestones: tuple[int, ...]
    """Usual length on CIFAR and the epochs at which the learning rate drops tenfold."""
    summary: str
    select_by: Literal["pgd20", "natural"] = "pgd20"
    """Validation accuracy that the best checkpoint maximises; PGD-20's would pick noise where nothing is robust."""
    without_branches: str | None = None
    """What is lost, with its source, where the classifier has no BatchNorm to give branches to; said once per run."""
    needs_pairs: bool = False
    """Whether a batch of one image cannot be trained on (a generator with BatchNorm)."""

    @property
    def create(self) -> type[Any]:
        """Class of the method; called with its settings and the task, and implements `dat_engine.step.method.Method`."""
        module, _, name = self.implementation.partition(":")
        created: type[Any] = getattr(importlib.import_module(module), name)
        return created

    @property
    def layout(self) -> tuple[str, ...]:
        """Branch of every group of the method's joint pass, known before the method is created."""
        layout: tuple[str, ...] = self.create.layout
        return layout
