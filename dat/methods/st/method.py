"""Squeeze training (Li et al., ICLR 2023): no two predictions within the ball may lie far apart.

For every image the attack looks for an adversarial twin, on which the true class is as improbable as it gets, and for a
collaborative one, on which it is as probable as it gets. Training draws together the two farthest of all three.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dat.losses import kl_divergence, smoothed_targets
from dat.methods.st import ST
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, draw_start, per_image, pgd_attack
from dat_engine.data import Batch
from dat_engine.profile.ranges import named_range
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.progress import TrainingProgress


class STMethod(Method):
    """See the module; three groups, the collaborative images, x and the adversarial ones."""

    layout = ("base", "base", "base")
    attack_layouts = (("base",),)
    adversarial_group = 2
    takes_soft_labels = True

    def __init__(self, settings: ST, task: Task) -> None:
        self.settings = settings
        self.num_classes = task.num_classes
        self.attack = AttackSettings(
            epsilon=task.epsilon,
            step_size=task.step_size(settings.step_size),
            steps=settings.steps,
            start="gaussian",
            start_scale=settings.start_scale,
        )

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """``start``, gaussian, of both attacks together."""
        return {"start": draw_start(generator)}

    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        assert attack_model is not None
        with torch.no_grad(), named_range("clean forward"):
            clean = attack_model.logits(batch.images).softmax(dim=1)
        pair = SqueezeAscent(clean, smoothed_targets(batch.targets, self.num_classes, 0.0, clean.dtype))
        attacked, other = pgd_attack(
            attack_model,
            torch.cat([batch.images, batch.images]),
            pair,
            self.attack,
            noise["start"],
        ).chunk(2)
        first_is_lower = per_image(pair.first_is_lower)
        adversarial = torch.where(first_is_lower, attacked, other)
        collaborative = torch.where(first_is_lower, other, attacked)
        return Examples(groups=(collaborative, batch.images, adversarial))

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        collaborative, clean, adversarial = joint.logits
        cross_entropy = functional.cross_entropy(clean, joint.targets)
        targets = smoothed_targets(joint.targets, self.num_classes, 0.0, clean.dtype)
        squeeze = squeeze_divergence((clean, collaborative, adversarial), targets)
        return {
            "loss": cross_entropy + self.settings.beta * squeeze,
            "cross_entropy": cross_entropy,
            "squeeze": squeeze,
        }


class SqueezeAscent:
    """dL/dlogits [2B, K] of the symmetric KL divergence between the two farthest of {x, first twin, second twin}.

    Each twin moves away from the farthest of the others on its other side; the targets of both KL terms are constants, as
    in training, so its gradient is the difference of two predictions. ``first_is_lower`` [B] says, of the last call, which of
    the twins had the true class less probable.

    Args:
        clean: softmax f(x), [B, K].
        targets: probabilities of the classes, [B, K].
    """

    first_is_lower: Tensor

    def __init__(self, clean: Tensor, targets: Tensor) -> None:
        self._clean = clean
        self._targets = targets
        self._clean_confidence = self._confidence(clean)

    def __call__(self, logits: Tensor) -> Tensor:
        first, second = logits.softmax(dim=1).chunk(2)
        confidences = self._confidence(first), self._confidence(second)
        lower = confidences[0] <= confidences[1]
        self.first_is_lower = lower[:, 0]
        away = (
            first - self._opposite(second, confidences[1], above=lower),
            second - self._opposite(first, confidences[0], above=~lower),
        )
        return torch.cat(away)

    def _opposite(self, twin: Tensor, confidence: Tensor, *, above: Tensor) -> Tensor:
        """The other twin's prediction, or x's own where that lies farther out; `above` [B, 1]: on the confident side."""
        clean_is_farther = torch.where(above, self._clean_confidence > confidence, self._clean_confidence < confidence)
        return torch.where(clean_is_farther, self._clean, twin)

    def _confidence(self, probabilities: Tensor) -> Tensor:
        return (probabilities * self._targets).sum(dim=1, keepdim=True)


def squeeze_divergence(logits: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """``(KL(p || q) + KL(q || p)) / 2`` of the predictions with the highest and the lowest probability of the true class.

    In each term the first distribution is a constant. "batchmean".

    Args:
        logits: [B, K] each, of the candidates.
        targets: probabilities of the classes, [B, K].
    """
    candidates = torch.stack(logits)
    confidences = (candidates.detach().softmax(dim=2) * targets).sum(dim=2, keepdim=True)

    def chosen(index: Tensor) -> Tensor:
        return candidates.gather(0, index.expand(1, *candidates.shape[1:]))[0]

    highest = chosen(confidences.argmax(dim=0, keepdim=True))
    lowest = chosen(confidences.argmin(dim=0, keepdim=True))
    return (kl_divergence(highest.detach(), lowest) + kl_divergence(lowest.detach(), highest)) / 2
