"""The problem that a method is set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dat_engine.data import Augmentation, ImageSource, RandomResizedCrop

STEP_OF_TRADES = 0.007 * 255 / 8
"""The 0.007 that TRADES and MART take at the published epsilon of 8/255, as a share of epsilon."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The threat model, and the shapes that a method works on."""

    num_classes: int
    image_shape: tuple[int, int, int]
    epsilon: float
    augmentation: Augmentation | RandomResizedCrop = field(default_factory=lambda: Augmentation(padding=0, flip=False))
    """What the data set does to its own training images; none where nobody says, so that no method mirrors a letter."""
    training_images: Callable[[], ImageSource] | None = None
    """Gives the training split to a method that computes something of it; None where there is none to look at."""

    def step_size(self, given: float | None, *, share: float = 1 / 4) -> float:
        """Of the attack: what the settings give, else that share of epsilon."""
        return share * self.epsilon if given is None else given
