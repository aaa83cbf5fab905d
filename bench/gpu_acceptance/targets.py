"""The project's targets for an NVIDIA H200, by the name of the figure that is held against each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIX_SMALL = "amplitude_mix forward, 128x3x32x32, in a graph"
MIX_LARGE = "amplitude_mix forward, 8192x3x32x32, share of copy bandwidth"
PGD_STEP = "pgd_step, 1 GiB, share of copy bandwidth"
DAT_EPOCH = "DAT epoch, CIFAR-10, ResNet-18, batch 128"
TO_PGD_AT = "DAT step / PGD-AT-10 step, both in this engine"
TO_EAGER_FP32 = "DAT step / eager PGD-AT-10 step, float32"
TO_EAGER_TF32 = "DAT step / eager PGD-AT-10 step, as published code runs (TF32)"
BUSY = "GPU busy in DAT steps"
LAUNCHES = "launches of a DAT step in its graph"
TRAINER = "wall time of an epoch in dat train / its steps"
DATA_SHARE = "data, share of the DAT step's GPU time"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A bound on one figure."""

    figure: str
    bound: float
    sense: Literal["at most", "at least"]

    def met(self, value: float) -> bool:
        return value <= self.bound if self.sense == "at most" else value >= self.bound


TARGETS = (
    Target(figure=MIX_SMALL, bound=8.0, sense="at most"),
    Target(figure=MIX_LARGE, bound=60.0, sense="at least"),
    Target(figure=PGD_STEP, bound=90.0, sense="at least"),
    Target(figure=DAT_EPOCH, bound=6.0, sense="at most"),
    Target(figure=TO_PGD_AT, bound=1.25, sense="at most"),
    Target(figure=TO_EAGER_FP32, bound=0.25, sense="at most"),
    Target(figure=TO_EAGER_TF32, bound=0.25, sense="at most"),
    Target(figure=BUSY, bound=97.0, sense="at least"),
    Target(figure=LAUNCHES, bound=800.0, sense="at most"),
    Target(figure=TRAINER, bound=1.1, sense="at most"),
    Target(figure=DATA_SHARE, bound=1.0, sense="at most"),
)
