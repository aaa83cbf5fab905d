"""Forwards of images that are not attacked yet: they give the attack f(x) and, where it starts at x, its first gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from dat.losses import soft_target_ascent
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import CleanPass


class CleanForwards:
    """Logits of the images of one step, group after group.

    Args:
        keeps_graph: whether `first_gradient` is going to be asked for.
    """

    def __init__(self, attack_model: AttackModel, *, keeps_graph: bool) -> None:
        self._attack_model = attack_model
        self._keeps_graph = keeps_graph
        self._passes: list[CleanPass] = []

    def __call__(self, images: Tensor, layout: tuple[str, ...] = ("base",)) -> Tensor:
        """[B, C, H, W] in groups of `layout` -> logits [B, K], constants."""
        if not self._keeps_graph:
            with torch.no_grad():
                return self._attack_model.logits(images, layout)
        self._passes.append(CleanPass(self._attack_model, images, layout))
        return self._passes[-1].logits

    def first_gradient(self, soft_targets: Tensor) -> Tensor | None:
        """dL/dimages at the images of all calls together, in their order; None where no graph is kept.

        There the KL term's gradient is 0: its target is f(x) itself.
        """
        if not self._passes:
            return None
        parts = zip(self._passes, soft_targets.chunk(len(self._passes)), strict=True)
        return torch.cat([each.gradient(soft_target_ascent(targets)) for each, targets in parts])
