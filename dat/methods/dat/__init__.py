"""Settings of Dual Adversarial Training; `dat.methods.dat.method` is what it does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from dat.methods.base import MethodEntry
from dat_engine.errors import UserError
from dat_engine.step.optimizer_settings import OptimizerSettings, SGDSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class DAT:
    """Settings of Dual Adversarial Training."""

    beta: float = 15.0
    """Weight of the KL divergence, in the attack and in the loss."""
    omega: float = 2.0
    """Weight of the JS divergence between the predictions on x and on its mixed twin."""
    label_smoothing: float = 0.5
    """In the attack and in training; 0.5 is what the authors' code runs, the paper names none."""
    steps: int = 5
    step_size: float | None = None
    """None: a quarter of epsilon."""
    start_scale: float = 0.001
    """Standard deviation of the gaussian start."""
    first_step: Literal["fresh", "clean"] = "fresh"
    """Attack's first gradient: at the noisy start (published), or at the image itself, by the clean forward that the KL term
    needs anyway: no start noise, and 33 forward-equivalents a step instead of 35."""
    mix_source: Literal["original", "augmented"] = "original"
    """Image that is mixed: the un-augmented one, augmented afterwards (authors' code), or x itself (the paper's text)."""
    mix_padding: int | None = None
    """Padding of the mixed image's own random crop; None: the data set's (none where it crops resized windows)."""
    mix_flip: bool | None = None
    """Whether the mixed image is flipped at random; None: where the data set's own images are."""
    amplitude_scale: Literal["unit", "dataset"] = "unit"
    """Range of generated amplitudes: [0, 1] (authors' code), or [0, mean amplitude of the training set] per frequency."""
    coarse_amplitude: int | None = None
    """None: the generator predicts every frequency (published); S: an S x S amplitude, interpolated (large images)."""
    attack_path_gradient: bool = True
    """Whether the generator also sees the gradient through the attacked mixed image."""
    generator_update: Literal["joint", "alternating"] = "joint"
    """One backward for both players, or the authors' second forward at the new weights ("alternating")."""
    generator_optimizer: OptimizerSettings = field(default_factory=SGDSettings)
    """The generator's; its rate is constant."""

    def __post_init__(self) -> None:
        if not (0 <= self.beta < math.inf and 0 <= self.omega < math.inf):
            raise UserError(f"beta and omega must be finite and not negative; got {self.beta:g} and {self.omega:g}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1); got {self.label_smoothing:g}")
        if self.mix_padding is not None and self.mix_padding < 0:
            raise UserError(f"mix_padding must not be negative; got {self.mix_padding}")


ENTRY = MethodEntry(
    implementation="dat.methods.dat.method:DATMethod",
    settings=DAT(),
    epochs=150,
    milestones=(100, 110),
    smallest_batch=2,
    branches=lambda settings: ("base", "mix"),
    # at 224 pixels the published form's last layer would hold 154 million weights
    for_image_size=lambda settings, image_size: replace(settings, coarse_amplitude=32) if image_size > 64 else settings,
    with_published_crop={"mix_padding": 3},
    lengths={"tinyimagenet": (100, (75, 80))},
    without_branches=(
        "in the paper's ablation (Li et al., NeurIPS 2024; ResNet-18, CIFAR-10) one set of BatchNorm instead of two costs "
        "natural 84.17 -> 82.37, PGD-20 57.55 -> 53.07 and AutoAttack 51.36 -> 46.53 percent; nothing is published for "
        "networks without BatchNorm"
    ),
    summary="Dual Adversarial Training: amplitude-mixed twin images, generator against classifier",
)
