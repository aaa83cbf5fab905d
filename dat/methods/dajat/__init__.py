"""Settings of DAJAT; `dat.methods.dajat.method` is what it does."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dat.methods.base import MethodEntry
from dat.methods.checks import check_label_smoothing, check_weights
from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class DAJAT:
    """Settings of DAJAT."""

    beta: float = 11.0
    """Weight of the KL divergence in the loss of every view."""
    js_weight: float = 2.0
    """Weight of the JS divergence between the predictions on all views."""
    views: int = 2
    """AutoAugment views beside the image's own."""
    label_smoothing: float = 0.0
    """In training; the recipes of CIFAR-100 have the authors' 0.1, which they spread over the wrong classes alone."""
    ramp_epochs: float = 200.0
    """Epochs over which epsilon grows, one of its parts with each, to the whole; the step size grows alike."""
    steps: int = 2
    step_size: float | None = None
    """At the whole epsilon. None: epsilon in two steps or one, else half of it."""
    start_scale: float = 0.001
    """Standard deviation of the gaussian start."""

    def __post_init__(self) -> None:
        check_weights(beta=self.beta, js_weight=self.js_weight)
        if self.views < 1:
            raise UserError(f"views must be at least 1, beside the image's own; got {self.views}")
        check_label_smoothing(self.label_smoothing)
        if not 0 < self.ramp_epochs < math.inf:
            raise UserError(f"ramp_epochs must be positive and finite; got {self.ramp_epochs:g}")


# the authors' 0.9 for the label and 0.1 / 99 for each other class, in torch's terms
_CIFAR100 = {"settings.beta": 9.0, "settings.label_smoothing": 0.1 * 100 / 99}
_CIFAR10_WIDE = {"settings.beta": 10.0, "settings.js_weight": 3.0}

ENTRY = MethodEntry(
    implementation="dat.methods.dajat.method:DAJATMethod",
    settings=DAJAT(),
    epochs=200,
    milestones=(),
    epoch_settings=("ramp_epochs",),
    epoch_ends=("ramp_epochs",),
    branches=lambda settings: ("base", "aug"),
    recipe_defaults={
        "optimizer.learning_rate": 0.2,
        "schedule.kind": "cosine",
        "awp.gamma": 0.005,
        "awp.start": 9.0,
        "ema.decay": 0.9996,
    },
    defaults_by_recipe={
        **{f"cifar100-{model}": _CIFAR100 for model in ("resnet18", "wrn34-10", "wrn28-10")},
        **{f"cifar10-{model}": _CIFAR10_WIDE for model in ("wrn34-10", "wrn28-10")},
    },
    without_branches=(
        "the paper (Addepalli et al., NeurIPS 2022) normalises AutoAugment views apart, since their statistics are not those "
        "of test images; nothing is published for networks without BatchNorm"
    ),
    summary="DAJAT: TRADES on AutoAugment views beside the image, BatchNorm apart, epsilon that grows",
)
