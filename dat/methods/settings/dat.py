"""Settings of Dual Adversarial Training; `dat.methods.dat` is the method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dat.methods.base import MethodEntry
from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class DATSettings:
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
    mix_source: Literal["original", "augmented"] = "original"
    """Image that is mixed: the un-augmented one, augmented afterwards (authors' code), or x itself (the paper's text)."""
    mix_padding: int = 3
    """Padding of the mixed image's own random crop."""
    mix_flip: bool = True
    """Whether the mixed image is flipped at random."""
    amplitude_scale: Literal["unit", "dataset"] = "unit"
    """Range of generated amplitudes: [0, 1] (authors' code), or [0, mean amplitude of the training set] per frequency."""
    coarse_amplitude: int | None = None
    """None: the generator predicts every frequency (published); S: an S x S amplitude, interpolated (large images)."""
    attack_path_gradient: bool = True
    """Whether the generator also sees the gradient through the attacked mixed image."""
    generator_update: Literal["joint", "alternating"] = "joint"
    """One backward for both players, or the authors' second forward at the new weights ("alternating")."""

    def __post_init__(self) -> None:
        if not (0 <= self.beta < math.inf and 0 <= self.omega < math.inf):
            raise UserError(f"beta and omega must be finite and not negative; got {self.beta:g} and {self.omega:g}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1); got {self.label_smoothing:g}")


ENTRY = MethodEntry(
    implementation="dat.methods.dat:DAT",
    settings=DATSettings(),
    epochs=150,
    milestones=(100, 110),
    needs_pairs=True,
    summary="Dual Adversarial Training: amplitude-mixed twin images, generator against classifier",
)
