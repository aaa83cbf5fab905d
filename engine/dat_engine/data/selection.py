"""Choosing some of the samples of a split, the same way for images in memory and in files."""

from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from dat_engine.errors import UserError

__all__ = ["hold_out", "take"]


class Split(Protocol):
    """What `ImageArrays` and `ImageFiles` have in common."""

    @property
    def targets(self) -> Tensor: ...

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def select(self, indices: Tensor) -> Self: ...


AnySplit = TypeVar("AnySplit", bound=Split)


def take(source: AnySplit, n: int, seed: int) -> AnySplit:
    """A random subset of n samples in their original order, its classes as equal in size as the data allow.

    A pure function of (source, n, seed); the subset of n is part of the subset of n + 1.
    Raises UserError where n is not in 1..len(source).
    """
    if not 1 <= n <= len(source):
        raise UserError(
            f"cannot take {n} images from a split of {len(source)}; ask for a number from 1 to {len(source)}"
        )
    return source.select(_balanced_order(source, seed)[:n].sort().values)


def hold_out(source: AnySplit, count: int, seed: int) -> tuple[AnySplit, AnySplit]:
    """Split off `count` samples for validation, classes as equal in size as the data allow: (train, validation).

    The two are disjoint, together they are the whole, both keep the original order; a pure function of
    (source, count, seed). Raises UserError where either part would be empty.
    """
    if not 1 <= count < len(source):
        raise UserError(
            f"cannot hold {count} images out of a split of {len(source)}; "
            f"ask for a number from 1 to {len(source) - 1}, so that both parts hold at least one image"
        )
    order = _balanced_order(source, seed)
    return source.select(order[count:].sort().values), source.select(order[:count].sort().values)


def _balanced_order(source: Split, seed: int) -> Tensor:
    """Positions [N] in rounds: one random sample of every class that has any left, classes in random order."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(source), generator=generator)
    class_order = torch.randperm(source.num_classes, generator=generator)
    targets = source.targets.cpu()[shuffled]
    by_class = targets.argsort(stable=True)
    class_start = torch.bincount(targets, minlength=source.num_classes).cumsum(0).roll(1)
    class_start[0] = 0
    turn = torch.empty_like(targets)
    turn[by_class] = torch.arange(len(source)) - class_start[targets[by_class]]
    return shuffled[(turn * source.num_classes + class_order[targets]).argsort()].to(source.targets.device)
