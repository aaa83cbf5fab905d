"""Plain training: cross entropy on clean images, no attack. The reference point of every robustness claim."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dat.methods.plain import Plain
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.data import Batch
from dat_engine.step.method import Noise


class PlainMethod:
    """See the module; one group, x."""

    layout = ("base",)
    attack_layouts: tuple[tuple[str, ...], ...] = ()
    adversarial_group = 0
    second_player = None

    def __init__(self, settings: Plain, task: Task) -> None:
        self.settings = settings

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """There is no second player."""

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """Nothing is random here."""
        return {}

    def examples(self, attack_model: AttackModel | None, batch: Batch, noise: Noise) -> tuple[Tensor, ...]:
        return (batch.images,)

    def losses(self, logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(logits[0], targets, label_smoothing=self.settings.label_smoothing)}
