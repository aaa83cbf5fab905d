"""Settings of MART; `dat.methods.mart.method` is what it does."""

from __future__ import annotations

from dataclasses import dataclass

from dat.methods.base import MethodEntry
from dat.methods.checks import check_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class MART:
    """Settings of MART."""

    beta: float = 5.0
    """Weight of the KL divergence, each image's weighed by how unsure its clean prediction is; WideResNets' recipes have 6."""
    steps: int = 10
    step_size: float | None = None
    """None: 0.007 / (8/255) = 0.223 of epsilon, which is the published 0.007 at the published epsilon."""
    start_scale: float = 0.001
    """Standard deviation of the gaussian start."""

    def __post_init__(self) -> None:
        check_weights(beta=self.beta)


_WIDE_RESNET = {"settings.beta": 6.0, "optimizer.learning_rate": 0.1, "optimizer.weight_decay": 2e-4}

ENTRY = MethodEntry(
    implementation="dat.methods.mart.method:MARTMethod",
    settings=MART(),
    epochs=120,
    milestones=(75, 90, 100),
    recipe_defaults={"optimizer.learning_rate": 0.01, "optimizer.weight_decay": 3.5e-3},
    defaults_by_recipe={
        f"{data}-{model}": _WIDE_RESNET for data in ("cifar10", "cifar100") for model in ("wrn34-10", "wrn28-10")
    },
    summary="MART: boosted cross entropy, and a KL divergence weighed by how unsure the clean prediction is",
)
