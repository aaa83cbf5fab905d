"""What every method is built from, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from dat_engine.data import Augmentation, RandomResizedCrop


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The problem that a method is set: its threat model and the shapes it works on."""

    num_classes: int
    image_shape: tuple[int, int, int]
    epsilon: float
    mean_amplitude: Callable[[], Tensor]
    """Computes the training set's mean Fourier amplitude, float32 [C, H, W] in FFT order, when a method asks for it."""
    augmentation: Augmentation | RandomResizedCrop = field(default_factory=lambda: Augmentation(padding=0, flip=False))
    """What the data set does to its own training images; none where nobody says, so that no method mirrors a letter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodEntry:
    """A method as recipes see it."""

    create: type[Any]
    """Class of the method; called with its settings and the task, and implements `dat_engine.step.method.Method`."""
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
    def layout(self) -> tuple[str, ...]:
        """Branch of every group of the method's joint pass, known before the method is created."""
        layout: tuple[str, ...] = self.create.layout
        return layout
