"""Update rules: from a step's examples to its players' new weights.

``joint``: one backward gives every player its gradient, then all move at once. ``alternating``: the classifier moves first on
examples taken as constants; the other players' gradients come from another train-mode forward at its new weights, as the DAT
authors' code does. Around the classifier's gradient, either rule lets the method perturb the classifier's weights
(`WeightPerturbation`), which is where adversarial weight perturbation belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dat_engine.data import Batch
from dat_engine.step.method import Examples, UpdateMode
from dat_engine.step.players import Seat
from dat_engine.step.progress import TrainingProgress


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """Train-mode logits [B, K] of every group, and the method's named scalars of them."""

    logits: tuple[Tensor, ...]
    terms: dict[str, Tensor]


class Passes(Protocol):
    """What rules and weight perturbations are made of; `TrainingStep` is one."""

    @property
    def own_seats(self) -> tuple[Seat, ...]:
        """Of the players that are (part of) the classifier."""

    @property
    def other_seats(self) -> tuple[Seat, ...]:
        """Of the players beside it."""

    @property
    def progress(self) -> TrainingProgress: ...

    def perturbed_weights(self, examples: Examples, batch: Batch) -> AbstractContextManager[None]:
        """Within the block the classifier's weights are those at which its gradient is to be taken."""

    def keeping_statistics(self) -> AbstractContextManager[None]:
        """What passes of constant examples within the block do to the classifier's running statistics is undone at its end."""

    def joint_pass(self, examples: Examples, batch: Batch) -> Outcome:
        """Every group forward in train mode."""

    def second_pass(self, examples: Examples, batch: Batch) -> Outcome:
        """The same at the present weights, for the other players: what does not depend on them builds no graph."""

    def backward(self, terms: dict[str, Tensor], seats: tuple[Seat, ...]) -> None:
        """Fill the gradients of these players, each from its own objective."""

    def move(self, terms: dict[str, Tensor], seats: tuple[Seat, ...]) -> None:
        """Step their optimizers, unless something is not finite."""


class WeightPerturbation(Protocol):
    """Adversarial weight perturbation and its like: a method's attribute, or `TrainingStep`'s argument around any method."""

    def around(self, passes: Passes, examples: Examples, batch: Batch) -> AbstractContextManager[None]:
        """Within the block the classifier's weights are moved; afterwards they are, bit for bit, what they were.

        Save them before and copy them back: subtracting what was added leaves rounding behind. The gradient that tells
        where to may come from `passes.joint_pass` and `passes.backward` under `passes.keeping_statistics()`, on
        ``examples.detached()``: it is the mean over all processes, so that all of them move alike. It is multiplied by fp16's
        loss scale; use its direction. What decides must be a tensor (`passes.progress`): a captured step runs it all.
        """


UpdateRule = Callable[[Passes, Examples, Batch], Outcome]


def joint(passes: Passes, examples: Examples, batch: Batch) -> Outcome:
    seats = (*passes.own_seats, *passes.other_seats)
    with passes.perturbed_weights(examples, batch):
        outcome = passes.joint_pass(examples, batch)
        passes.backward(outcome.terms, seats)
    passes.move(outcome.terms, seats)
    return outcome


def alternating(passes: Passes, examples: Examples, batch: Batch) -> Outcome:
    if not (passes.own_seats and passes.other_seats):
        return joint(passes, examples, batch)
    constants = examples.detached()
    with passes.perturbed_weights(constants, batch):
        outcome = passes.joint_pass(constants, batch)
        passes.backward(outcome.terms, passes.own_seats)
    passes.move(outcome.terms, passes.own_seats)
    again = passes.second_pass(examples, batch)
    passes.backward(again.terms, passes.other_seats)
    passes.move(again.terms, passes.other_seats)
    return outcome


RULES: dict[UpdateMode, UpdateRule] = {"joint": joint, "alternating": alternating}
