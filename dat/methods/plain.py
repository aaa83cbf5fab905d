"""Plain training: cross entropy on clean images, no attack. The reference point of every robustness claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dat.methods.protocol import MethodEntry, Task
from engine.data import Batch
from engine.frozen import FrozenView
from engine.method import Noise


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainSettings:
    """Settings of plain training."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1); got {self.label_smoothing:g}")


class Plain:
    """See the module; one group, x."""

    layout = ("base",)
    view_layouts: tuple[tuple[str, ...], ...] = ()
    adversarial_group = 0
    second_player = None

    def __init__(self, settings: PlainSettings, task: Task) -> None:
        self.settings = settings

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """There is no second player."""

    def draw(self, batch: Batch, generator: torch.Generator) -> Noise:
        """Nothing is random here."""
        return {}

    def groups(self, view: FrozenView | None, batch: Batch, noise: Noise) -> tuple[Tensor, ...]:
        return (batch.images,)

    def losses(self, logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(logits[0], targets, label_smoothing=self.settings.label_smoothing)}


ENTRY = MethodEntry(
    create=Plain,
    settings=PlainSettings(),
    epochs=200,
    milestones=(100, 150),
    select_by="natural",
    summary="plain training on clean images: the reference point, not robust",
)
