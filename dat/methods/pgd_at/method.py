"""PGD adversarial training (Madry et al., ICLR 2018): cross entropy on images attacked by cross-entropy PGD."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dat.losses import cross_entropy_ascent
from dat.methods.pgd_at import PGDAT
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, draw_start, pgd_attack
from dat_engine.data import Batch
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.progress import TrainingProgress


class PGDATMethod(Method):
    """See the module; one group, x'."""

    attack_layouts = (("base",),)
    takes_soft_labels = True

    def __init__(self, settings: PGDAT, task: Task) -> None:
        self.num_classes = task.num_classes
        self.attack = AttackSettings(
            epsilon=task.epsilon,
            step_size=task.step_size(settings.step_size),
            steps=settings.steps,
            start="uniform",
        )

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """``start``, uniform in the box."""
        return {"start": draw_start(generator)}

    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        assert attack_model is not None
        ascent = cross_entropy_ascent(batch.targets, self.num_classes, batch.images.dtype)
        adversarial = pgd_attack(attack_model, batch.images, ascent, self.attack, noise["start"])
        return Examples(groups=(adversarial,))

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(joint.logits[0], joint.targets)}
