"""Adversarial weight perturbation: the classifier's gradient is taken where its weights do worse (Wu et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dat_engine import private_torch
from dat_engine.data import Batch
from dat_engine.errors import UserError
from dat_engine.step.method import Examples
from dat_engine.step.players import Seat
from dat_engine.step.updates import Passes

_SMALLEST = 1e-20


class AdversarialWeightPerturbation:
    """A `dat_engine.step.updates.WeightPerturbation`: w + gamma d, d = |w| / (|delta| + 1e-20) delta for each weight tensor.

    In the published codes delta is what one step of SGD up the loss on the same examples does to a copy of the classifier
    (the proxy), with a fresh optimizer. Without weight decay, as in Wu et al.'s code, that is the learning rate times the
    gradient, and the rate cancels but for the 1e-20; so delta is the gradient itself here, and there is neither a copy nor an
    optimizer. Weight decay would be left out of a proxy that had one: it says nothing about the loss.

    Moved are the tensors with more than one dimension that are trained; scales, shifts and biases stay. It costs one forward
    and backward of the joint pass, whose effect on running statistics is undone. Before `start` that pass is run and the
    weights stay where they are: what decides is a tensor, so that a captured step needs no second graph.

    Args:
        gamma: how far, as a share of each tensor's norm; 0.005 is usual.
        start: epochs after which it begins.
    """

    def __init__(self, gamma: float, start: float = 0.0) -> None:
        self.gamma = gamma
        self.start = start
        self._seats: tuple[Seat, ...] | None = None
        self._weights: list[Tensor] = []
        self._before: list[Tensor] = []

    def check(self, seats: tuple[Seat, ...]) -> None:
        """Look, before the first step, at the players that are (part of) the classifier.

        Raises:
            UserError: no tensor with more than one dimension is trained.
        """
        if not _moved(seats):
            raise UserError(
                "adversarial weight perturbation moves weights with more than one dimension, and the classifier trains none; "
                "leave awp.gamma out"
            )

    @contextmanager
    def around(self, passes: Passes, examples: Examples, batch: Batch) -> Iterator[None]:
        """See `dat_engine.step.updates.WeightPerturbation`."""
        self._sit_with(passes.own_seats)
        with torch.no_grad():
            private_torch.copy_all_(self._before, self._weights)
        with passes.keeping_statistics():
            outcome = passes.joint_pass(examples.detached(), batch)
            passes.backward(outcome.terms, passes.own_seats)
        self._move(passes.progress.epoch)
        try:
            yield
        finally:
            with torch.no_grad():
                private_torch.copy_all_(self._weights, self._before)

    @torch.no_grad()
    def _move(self, epoch: Tensor) -> None:
        reached = [weight for weight in self._weights if weight.grad is not None]
        steps = [weight.grad for weight in reached if weight.grad is not None]
        if not reached:
            return
        lengths, norms = private_torch.norms(reached), private_torch.norms(steps)
        private_torch.add_numbers_(norms, [_SMALLEST] * len(norms))
        shares = private_torch.quotients(lengths, norms)
        private_torch.scale_all_(shares, self.gamma * (epoch >= self.start).to(shares[0].dtype))
        private_torch.add_all_(reached, private_torch.products(steps, shares))

    def _sit_with(self, seats: tuple[Seat, ...]) -> None:
        """Room for the weights of these players, made once: a captured step goes on using it."""
        if self._seats is seats:
            return
        self._weights = _moved(seats)
        self._before = [weight.detach().clone() for weight in self._weights]
        self._seats = seats


def _moved(seats: tuple[Seat, ...]) -> list[Tensor]:
    return [weight for seat in seats for weight in seat.parameters if weight.ndim > 1]
