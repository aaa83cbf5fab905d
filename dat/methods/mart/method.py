"""MART (Wang et al., ICLR 2020): images that are misclassified as they are count more in the divergence.

The cross entropy of the attacked image is boosted by the margin to the strongest wrong class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dat.losses import cross_entropy_ascent, kl_divergences
from dat.methods.mart import MART
from dat.methods.task import STEP_OF_TRADES, Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, draw_start, pgd_attack
from dat_engine.data import Batch
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.progress import TrainingProgress

MARGIN_CEILING = 1.0001
"""Keeps the margin term finite where the strongest wrong class has all of the probability."""


class MARTMethod(Method):
    """See the module; two groups, x and x'. The runner-up needs a class to run up to: no soft labels."""

    layout = ("base", "base")
    attack_layouts = (("base",),)
    adversarial_group = 1

    def __init__(self, settings: MART, task: Task) -> None:
        self.settings = settings
        self.num_classes = task.num_classes
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
        ascent = cross_entropy_ascent(batch.targets, self.num_classes, batch.images.dtype)
        adversarial = pgd_attack(attack_model, batch.images, ascent, self.attack, noise["start"])
        return Examples(groups=(batch.images, adversarial))

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        clean, adversarial = joint.logits
        boosted = boosted_cross_entropy(adversarial, joint.targets)
        confidence = clean.softmax(dim=1).gather(1, joint.targets[:, None])[:, 0]
        weighted_kl = (kl_divergences(clean, adversarial) * (1.0 - confidence)).mean()
        return {"loss": boosted + self.settings.beta * weighted_kl, "boosted": boosted, "weighted_kl": weighted_kl}


def boosted_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``CE(p, y) - log(1.0001 - max_{k != y} p_k)`` of logits [B, K] and labels [B], averaged over the batch (eq. 8)."""
    runner_up = logits.softmax(dim=1).scatter(1, targets[:, None], 0.0).amax(dim=1)
    return functional.cross_entropy(logits, targets) - (MARGIN_CEILING - runner_up).log().mean()
