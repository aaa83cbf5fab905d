"""BatchNorm with several sets of parameters and statistics, one per branch, and the converter that installs it.

A batch is a concatenation of equal groups with a layout such as ``("base", "base", "mix", "mix")``: convolutions see one
large batch, normalisation sees each group alone and with its branch's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, cat, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dat_engine.errors import UserError
from dat_engine.model.copying import independent_copy
from dat_engine.model.grouped_batchnorm import all_plain, normalise_groups


class BranchSelection:
    """The layout that every branched BatchNorm of one model reads; shared by all of them and by copies of the model."""

    __slots__ = ("at_once", "layout")

    def __init__(self, *layout: str) -> None:
        self.layout = layout
        self.at_once = False
        """Whether compiled code normalises all groups at once; who sets it counts batches (`uncounted_batches`)."""


class BranchedBatchNorm(nn.ModuleDict):
    """One BatchNorm per branch; the selected layout says which group of the batch goes through which.

    In train mode each group is a batch of its own, and running statistics are updated group after group, as if the groups
    had been passed one by one. Compiled code may do so at once (`dat_engine.model.grouped_batchnorm`) where whoever owns
    the model has asked for it.
    """

    def __init__(self, branches: dict[str, nn.Module], selection: BranchSelection) -> None:
        super().__init__(branches)
        self.selection = selection

    def forward(self, features: Tensor) -> Tensor:
        layout = self.selection.layout
        if len(layout) == 1:
            return self[layout[0]](features)
        if features.shape[0] % len(layout):
            raise ValueError(
                f"batch of {features.shape[0]} does not divide into {len(layout)} equal groups ({', '.join(layout)}); "
                f"use a multiple of {len(layout)}"
            )
        if self.selection.at_once and torch.compiler.is_compiling() and self.normalises_at_once(layout):
            return normalise_groups(features, {branch: self[branch] for branch in layout}, layout)
        groups = features.chunk(len(layout))
        return cat([self[branch](group) for branch, group in zip(layout, groups, strict=True)])

    def normalises_at_once(self, layout: tuple[str, ...]) -> bool:
        """Whether groups of that layout may pass through one normalisation, in train mode."""
        return len(layout) > 1 and all_plain([self[branch] for branch in dict.fromkeys(layout)])


def normalise_at_once(model: nn.Module) -> None:
    """Let compiled train-mode forwards normalise all groups of a layout at once: the same in a third of the kernels.

    Batches are not counted then, see `uncounted_batches`.
    """
    for module in model.modules():
        if isinstance(module, BranchedBatchNorm):
            module.selection.at_once = True


def uncounted_batches(model: nn.Module, layout: tuple[str, ...]) -> tuple[list[Tensor], list[int]]:
    """The counters (``num_batches_tracked``) that a compiled train-mode forward with `layout` leaves alone, and by how much
    the caller is to raise each: by the number of groups that its branch has.

    A counter costs a kernel in every layer, and nothing reads it where the momentum is a number.
    """
    counters: list[Tensor] = []
    amounts: list[int] = []
    for module in model.modules():
        if isinstance(module, BranchedBatchNorm) and module.selection.at_once and module.normalises_at_once(layout):
            for branch in dict.fromkeys(layout):
                counters.append(module[branch].get_buffer("num_batches_tracked"))
                amounts.append(layout.count(branch))
    return counters, amounts


def convert_batchnorm(model: nn.Module, branches: Sequence[str] = ("base", "mix")) -> nn.Module:
    """Give every BatchNorm of `model` one set of parameters and statistics per branch, in place; returns the model.

    Works on any model whose normalisation layers are ``torch.nn.BatchNorm1d/2d/3d`` or subclasses of them (torchvision,
    timm, your own). Each branch starts as a copy of the layer it replaces, with everything that the layer does besides
    normalising; no logit changes. The first branch is what ``model(images)`` uses by default. A model without BatchNorm
    has nothing to convert and is refused here; `TrainingStep` takes it as it is.

    Raises:
        UserError: no branch, a repeated branch, a model that has no BatchNorm or is branched already.
    """
    if not branches or len(set(branches)) != len(branches):
        raise UserError(f"branches must be distinct names, at least one; got {tuple(branches)}")
    layers = list(batchnorm_layers(model))
    if any(isinstance(module, BranchedBatchNorm) for module in model.modules()):
        raise UserError(f"{type(model).__name__} has branched BatchNorm already")
    if not layers:
        raise UserError(f"{type(model).__name__} has no BatchNorm layer to give branches to")
    selection = BranchSelection(branches[0])
    memos: dict[str, dict[int, Any]] = {branch: {} for branch in branches}  # tied weights stay tied within a branch
    replacements: dict[nn.Module, BranchedBatchNorm] = {}  # a layer that serves in two places goes on doing so
    for parent, name, layer in layers:
        if layer not in replacements:
            copies: dict[str, nn.Module] = {branch: independent_copy(layer, memos[branch]) for branch in branches}
            branched = BranchedBatchNorm(copies, selection)
            branched.training = layer.training
            replacements[layer] = branched
        setattr(parent, name, replacements[layer])
    return model


def batchnorm_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, _BatchNorm]]:
    """Every BatchNorm below `model` as (parent, attribute name, layer), in registration order.

    A layer that is registered in several places is met in each of them.
    """
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _BatchNorm):
                yield parent, name, child


def has_batchnorm(model: nn.Module) -> bool:
    """Whether any layer of `model` is a BatchNorm, branched or not; without one the groups of a batch share everything."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def branch_names(model: nn.Module) -> tuple[str, ...]:
    """The branches of a converted model, default first; ``("base",)`` for a model that was never converted."""
    for module in model.modules():
        if isinstance(module, BranchedBatchNorm):
            return tuple(module.keys())
    return ("base",)


@contextmanager
def branch_layout(model: nn.Module, layout: Sequence[str]) -> Iterator[None]:
    """Within the block, `model` treats its input as `len(layout)` equal groups, group i normalised by branch layout[i].

    A model without BatchNorm takes any layout: nothing in it depends on the group, and all branches share its weights.

    Raises:
        ValueError: a branch that the BatchNorm of the model does not have.
    """
    selection = next((module.selection for module in model.modules() if isinstance(module, BranchedBatchNorm)), None)
    unknown = set(layout) - set(branch_names(model))
    if unknown and has_batchnorm(model):
        raise ValueError(
            f"{type(model).__name__} has the branches {', '.join(branch_names(model))}, not {', '.join(sorted(unknown))}"
        )
    if selection is None:  # without BatchNorm branches a group is normalised like any other
        yield
        return
    before = selection.layout
    selection.layout = tuple(layout)
    try:
        yield
    finally:
        selection.layout = before
