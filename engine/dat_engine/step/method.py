"""What the engine asks of a training method; `dat.methods` holds the implementations.

A method subclasses `Method` and writes `examples` and `losses`; everything else has a default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from dat_engine.attack.attack_model import AttackModel
from dat_engine.data import Batch
from dat_engine.step.players import Player
from dat_engine.step.progress import TrainingProgress

if TYPE_CHECKING:
    from dat_engine.step.updates import WeightPerturbation

UpdateMode = Literal["joint", "alternating"]

Noise = Mapping[str, Tensor]
"""Every random draw of one step by name, so that a test (or a replay) can hand in its own."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examples:
    """What enters the joint pass: equal groups of images, each [B, C, H, W], in the order of the method's layout.

    Differentiable in a player that made them. `extras` are further tensors that the losses need, those that only `examples`
    sees among them: the log probabilities of a policy that chose the attack, a teacher's logits.
    """

    groups: tuple[Tensor, ...]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def detached(self) -> Self:
        """The same as constants."""
        return replace(
            self,
            groups=tuple(group.detach() for group in self.groups),
            extras={name: tensor.detach() for name, tensor in self.extras.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JointPass:
    """What the losses see: train-mode logits [B, K] of every group, the groups themselves, the batch's targets."""

    logits: tuple[Tensor, ...]
    examples: tuple[Tensor, ...]
    targets: Tensor
    progress: TrainingProgress
    extras: Mapping[str, Tensor]


class Method(ABC):
    """One way to train: which images enter the joint pass, and the loss of their logits."""

    layout: tuple[str, ...] = ("base",)
    """Branch of every group of the joint pass, in the order in which running statistics are updated."""
    attack_layouts: tuple[tuple[str, ...], ...] = ()
    """Layouts that the attack model is asked for; empty where nothing is attacked, and no attack model is made."""
    extra_views: int = 0
    """Augmented views of every image that the method needs beside the batch's first (`Batch.extra_views`)."""
    extra_augmentation: str | None = None
    """Augmentation of those views by its name in `dat_engine.data.AUGMENTATIONS`; None: the first view's."""
    adversarial_group: int = -1
    """Index of the group whose accuracy is the training accuracy that is shown."""
    takes_soft_labels: bool = False
    """Whether targets may be probabilities, float32 [B, K], where they are else class numbers, int64 [B]."""
    update: UpdateMode = "joint"
    """How a player beside the classifier gets its gradient: see `dat_engine.step.updates`."""
    weight_perturbation: WeightPerturbation | None = None
    """Where the classifier's gradient is taken; None: at its weights."""

    @classmethod
    def network(cls, settings: Any, classifier: nn.Module) -> nn.Module:
        """The network that is trained, validated and evaluated, made of the recipe's `classifier`; by default that itself.

        Called wherever a run's network is built, its checkpoints' too: a purifier in front of the classifier is put there here.
        """
        return classifier

    def players(self, model: nn.Module) -> tuple[Player, ...]:
        """The networks that take part, first those that are (part of) the classifier `model`.

        By default the classifier alone, which descends ``"loss"``.
        """
        return (Player(name="model", network=model),)

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """Draw the random numbers of one step, without gradients; by default none.

        What a schedule scales is drawn in units (`torch.rand_like`) and scaled in `examples`, which knows the progress.
        """
        return {}

    @abstractmethod
    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        """One group for every branch of `layout`. `attack_model` is None where the method has no `attack_layouts`."""

    @abstractmethod
    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        """Named scalars; a player follows the one that it names as its objective, by default ``"loss"``.

        All of them are shown and written; ``"loss"`` is always there.
        """
