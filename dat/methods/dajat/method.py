"""DAJAT (Addepalli et al., NeurIPS 2022): simple and diverse augmentations trained jointly, BatchNorm apart.

Every view, the image's own and further ones by AutoAugment, is attacked as TRADES does and has its own TRADES loss; a JS
divergence holds the predictions on the views together. Epsilon grows over the training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from dat.losses import js_divergence, kl_divergence, soft_target_ascent
from dat.methods.dajat import DAJAT
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, draw_start, pgd_attack
from dat_engine.data import Batch
from dat_engine.profile.ranges import named_range
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.progress import TrainingProgress
from dat_engine.step.scalar_schedule import epoch_number, linear_ramp


class DAJATMethod(Method):
    """See the module; x and x' on branch base, then every further view and its x' on branch aug."""

    adversarial_group = 1
    takes_soft_labels = True
    extra_augmentation = "autoaugment"

    def __init__(self, settings: DAJAT, task: Task) -> None:
        self.settings = settings
        self.epsilon = task.epsilon
        self.extra_views = settings.views
        self.view_branches = ("base", *["aug"] * settings.views)
        self.layout = tuple(branch for branch in self.view_branches for _ in ("clean", "adversarial"))
        self.attack_layouts = (self.view_branches,)
        self.attack = AttackSettings(
            epsilon=task.epsilon,
            step_size=task.step_size(settings.step_size, share=1 if settings.steps <= 2 else 1 / 2),
            steps=settings.steps,
            start="gaussian",
            start_scale=settings.start_scale,
        )

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """``start``, gaussian, of all views together."""
        return {"start": draw_start(generator)}

    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        assert attack_model is not None and batch.extra_views is not None
        share = linear_ramp(epoch_number(progress.epoch), end=self.settings.ramp_epochs)
        attack = replace(self.attack, epsilon=self.attack.epsilon * share, step_size=self.attack.step_size * share)
        views = torch.cat([batch.images, *batch.extra_views[: self.extra_views]])
        with torch.no_grad(), named_range("clean forward"):
            clean = attack_model.logits(views, self.view_branches).softmax(dim=1)
        adversarial = pgd_attack(
            attack_model, views, soft_target_ascent(clean), attack, noise["start"], layout=self.view_branches
        )
        count = len(self.view_branches)
        pairs = zip(views.chunk(count), adversarial.chunk(count), strict=True)
        return Examples(
            groups=tuple(group for pair in pairs for group in pair), extras={"epsilon": self.epsilon * share}
        )

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        clean, adversarial = joint.logits[0::2], joint.logits[1::2]
        smoothing = self.settings.label_smoothing
        cross_entropy = _mean(
            functional.cross_entropy(each, joint.targets, label_smoothing=smoothing) for each in clean
        )
        kl = _mean(kl_divergence(one, other) for one, other in zip(clean, adversarial, strict=True))
        js = js_divergence(*clean)
        return {
            "loss": cross_entropy + self.settings.beta * kl + self.settings.js_weight * js,
            "cross_entropy": cross_entropy,
            "kl": kl,
            "js": js,
            "epsilon": joint.extras["epsilon"],
        }


def _mean(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()
