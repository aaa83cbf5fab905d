"""Settings of what is done with a classifier's weights besides stepping; imports nothing heavy.

`dat_engine.step.awp` perturbs them, `dat_engine.step.averages` averages them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class AWPSettings:
    """Adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020), around any method."""

    gamma: float | None = None
    """How far each weight tensor is moved up the loss before its gradient is taken, as a share of its own norm (0.005 is
    usual); None: not at all."""
    start: float = 0.0
    """Epochs after which it begins; the extra forward and backward are run from the first step on."""

    def __post_init__(self) -> None:
        if self.gamma is not None and not 0 < self.gamma < math.inf:
            raise UserError(
                f"awp.gamma must be positive and finite, 0.005 for instance, or be left out; got {self.gamma:g}"
            )
        if not 0 <= self.start < math.inf:
            raise UserError(f"awp.start is a number of epochs, counted from 0; got {self.start:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EMASettings:
    """Exponential moving average of the classifier's weights, one update per step."""

    decay: float | None = None
    """What remains of the average at each step (0.9996 in long runs); it looks back over about 1 / (1 - decay) steps, and is
    the plain mean of all steps before there are as many. None: no such average."""
    bn_batches: int = 10
    """Training batches from which its BatchNorm statistics are estimated anew at the end of an epoch."""

    def __post_init__(self) -> None:
        if self.decay is not None and not 0 < self.decay < 1:
            raise UserError(f"ema.decay must lie in (0, 1), 0.9996 for instance; got {self.decay:g}")
        _check_batches("ema", self.bn_batches)


@dataclass(frozen=True, kw_only=True, slots=True)
class SWASettings:
    """Stochastic weight averaging (Izmailov et al., UAI 2018): the mean of the classifier's weights at the ends of epochs."""

    start: float | None = None
    """Epochs after which the mean begins: those that end later enter it. None: no such average."""
    bn_batches: int = 10
    """Training batches from which its BatchNorm statistics are estimated anew at the end of an epoch."""

    def __post_init__(self) -> None:
        if self.start is not None and not 0 <= self.start < math.inf:
            raise UserError(f"swa.start is a number of epochs, counted from 0; got {self.start:g}")
        _check_batches("swa", self.bn_batches)


def _check_batches(group: str, batches: int) -> None:
    if batches < 1:
        raise UserError(f"{group}.bn_batches must be at least 1; got {batches}")


def check_starts(awp: AWPSettings, swa: SWASettings, *, epochs: int) -> None:
    """Raise UserError where perturbation or averaging would begin after the end of a run of `epochs` epochs."""
    if awp.gamma is not None and awp.start >= epochs:
        raise UserError(
            f"awp.start is {awp.start:g} and the run has {epochs} epochs, so no weight would be perturbed; choose a start "
            f"below {epochs}"
        )
    if swa.start is not None and swa.start >= epochs:
        raise UserError(
            f"swa.start is {swa.start:g} and the run has {epochs} epochs, so no weights would be averaged; choose a start "
            f"below {epochs}"
        )
