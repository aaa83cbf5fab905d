"""What every method is built from, and how one is registered."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The problem that a method is set: its threat model and the shapes it works on."""

    num_classes: int
    image_shape: tuple[int, int, int]
    epsilon: float
    mean_amplitude: Callable[[], Tensor]
    """Computes the training set's mean Fourier amplitude, float32 [C, H, W] in FFT order, when a method asks for it."""


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
