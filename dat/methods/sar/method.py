"""Spectral alignment regularization (Huang et al., arXiv 2306.14262): clean and attacked logits with one spectrum.

From a start epoch on, cross entropy on attacked images is joined by the distance between the discrete Fourier transforms of
the two predictions. Clean images take part in every step, whatever the epoch, so that one captured step does.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dat.losses import cross_entropy_ascent
from dat.methods.sar import SAR
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, draw_start, pgd_attack
from dat_engine.data import Batch
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.progress import TrainingProgress
from dat_engine.step.scalar_schedule import switched_on


class SARMethod(Method):
    """See the module; two groups, x' and x, in the order of the authors' forwards."""

    layout = ("base", "base")
    attack_layouts = (("base",),)
    adversarial_group = 0
    takes_soft_labels = True

    def __init__(self, settings: SAR, task: Task) -> None:
        self.settings = settings
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
        return Examples(groups=(adversarial, batch.images))

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        adversarial, clean = joint.logits
        cross_entropy = functional.cross_entropy(adversarial, joint.targets)
        spectral = spectral_distance(clean, adversarial, self.settings.spectrum)
        weight = self.settings.weight * switched_on(joint.progress.epoch, start=self.settings.start)
        return {"loss": cross_entropy + weight * spectral, "cross_entropy": cross_entropy, "spectral": spectral}


def spectral_distance(logits: Tensor, other: Tensor, spectrum: Literal["sample", "batch"]) -> Tensor:
    """Mean absolute difference of the DFTs of two [B, K] tensors, over all frequencies and over real and imaginary parts.

    The transform is linear and small, so it is that of the difference, by products with real matrices: Inductor generates no
    code for complex numbers.

    Args:
        spectrum: ``"sample"`` transforms every row; ``"batch"`` all of them in two dimensions.
    """
    difference = logits - other
    cosine, sine = _dft_matrices(difference.shape[1], difference)
    real, imaginary = difference @ cosine, difference @ sine
    if spectrum == "batch":
        cosine, sine = _dft_matrices(difference.shape[0], difference)
        real, imaginary = cosine @ real - sine @ imaginary, cosine @ imaginary + sine @ real
    return (real.abs().mean() + imaginary.abs().mean()) / 2


def _dft_matrices(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and -sin of 2 pi j k / `size`, both [size, size] and symmetric."""
    index = torch.arange(size, device=like.device)
    angle = (torch.outer(index, index) % size).to(like.dtype) * (2 * math.pi / size)
    return angle.cos(), -angle.sin()
