"""What the engine asks of a training method; `dat.methods` holds the implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from dat_engine.attack.attack_model import AttackModel
from dat_engine.data import Batch

Noise = Mapping[str, Tensor]
"""Every random draw of one step by name, so that a test (or a replay) can hand in its own."""


class Method(Protocol):
    """One way to train: which images enter the joint pass, and the loss of their logits."""

    @property
    def layout(self) -> tuple[str, ...]:
        """Branch of every group of the joint pass, in the order in which running statistics are updated."""

    @property
    def attack_layouts(self) -> tuple[tuple[str, ...], ...]:
        """Layouts that the attack model is asked for; empty where nothing is attacked."""

    @property
    def adversarial_group(self) -> int:
        """Index of the group whose accuracy is the training accuracy that is shown."""

    @property
    def second_player(self) -> nn.Module | None:
        """A network that ascends the loss through the images it makes (DAT's generator), or None."""

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """From now on run the second player's forward through ``wrap(second_player)``; asked only where there is one."""

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """Draw the random numbers of one step."""

    def examples(self, attack_model: AttackModel | None, batch: Batch, noise: Noise) -> tuple[Tensor, ...]:
        """The groups of the joint pass, each [B, C, H, W]; differentiable in the second player where there is one."""

    def losses(self, logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:
        """Named scalar terms of the groups' logits; ``"loss"`` is what theta descends and the second player ascends."""
