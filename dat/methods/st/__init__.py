"""Settings of squeeze training; `dat.methods.st.method` is what it does."""

from __future__ import annotations

from dataclasses import dataclass

from dat.methods.base import MethodEntry
from dat.methods.checks import check_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class ST:
    """Settings of squeeze training."""

    beta: float = 6.0
    """Weight of the symmetric KL divergence between the two predictions that lie farthest apart."""
    steps: int = 10
    step_size: float | None = None
    """None: a quarter of epsilon."""
    start_scale: float = 0.001
    """Standard deviation of the gaussian starts."""

    def __post_init__(self) -> None:
        check_weights(beta=self.beta)


ENTRY = MethodEntry(
    implementation="dat.methods.st.method:STMethod",
    settings=ST(),
    epochs=120,
    milestones=(80, 100),
    summary="squeeze training: adversarial and collaborative images, the farthest predictions drawn together",
)
