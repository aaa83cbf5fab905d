"""TRADES (Zhang et al., ICML 2019): clean cross entropy plus a KL term whose maximiser is the adversarial image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dat.losses import kl_divergence, soft_target_ascent
from dat.methods.task import STEP_OF_TRADES, Task
from dat.methods.trades import TRADES
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, draw_start, pgd_attack
from dat_engine.data import Batch
from dat_engine.profile.ranges import named_range
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.progress import TrainingProgress


class TRADESMethod(Method):
    """See the module; two groups, x and x'."""

    layout = ("base", "base")
    attack_layouts = (("base",),)
    adversarial_group = 1
    takes_soft_labels = True

    def __init__(self, settings: TRADES, task: Task) -> None:
        self.settings = settings
        self.attack = AttackSettings(
            epsilon=task.epsilon,
            step_size=task.step_size(settings.step_size, share=STEP_OF_TRADES),
            steps=settings.steps,
            start="gaussian",
            start_scale=settings.start_scale,
        )

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """``start``, gaussian."""
        return {"start": draw_start(generator)}

    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        assert attack_model is not None
        with torch.no_grad(), named_range("clean forward"):
            clean = attack_model.logits(batch.images).softmax(dim=1)
        adversarial = pgd_attack(attack_model, batch.images, soft_target_ascent(clean), self.attack, noise["start"])
        return Examples(groups=(batch.images, adversarial))

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        clean, adversarial = joint.logits
        cross_entropy = functional.cross_entropy(clean, joint.targets)
        kl = kl_divergence(clean, adversarial)
        return {"loss": cross_entropy + self.settings.beta * kl, "cross_entropy": cross_entropy, "kl": kl}
