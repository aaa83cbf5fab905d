"""Train-mode BatchNorm of a batch that is several groups: one reduction and one pass for all, whichever branch they take.

What torch.compile makes of one BatchNorm per group is one of everything for each, and a concatenation. Here the number of
kernels does not depend on the number of groups. Only compiled code gains: eagerly each group has one kernel of the vendor's
library, and this would be a dozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dat_engine import private_torch
from dat_engine.model.copying import acts_as_its_type

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def all_plain(norms: Sequence[nn.Module]) -> bool:
    """Whether `normalise_groups` does what these layers would do, one after the other, in train mode.

    Not so for subclasses (synchronised BatchNorm, timm's with an activation), hooks, the plain mean of all batches
    (``momentum=None``), layers without weights or running statistics, or branches that differ in eps or momentum.
    """
    return all(
        type(norm) in _PLAIN
        and isinstance(norm, _BatchNorm)
        and norm.training
        and acts_as_its_type(norm)
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.eps == norms[0].eps
        and norm.momentum == norms[0].momentum
        and norm.running_mean is not None
        and norm.running_mean.dtype in (torch.float32, torch.float64)
        for norm in norms
    )


def normalise_groups(features: Tensor, norms: Mapping[str, Any], layout: Sequence[str]) -> Tensor:
    """[N, C, ...], `len(layout)` equal groups, group i through ``norms[layout[i]]`` in train mode -> the same shape.

    Statistics are computed in at least float32; running ones are updated in the layout's order. Batches are not counted.
    """
    branches = list(dict.fromkeys(layout))
    of_group = tuple(branches.index(branch) for branch in layout)
    used = [norms[branch] for branch in branches]
    affine = [*(norm.weight for norm in used), *(norm.bias for norm in used)]
    normalised, means, variances = _GroupNormalisation.apply(features, of_group, used[0].eps, *affine)
    _update_running(used, of_group, means, variances, features.numel() // means.numel())
    return normalised


@torch.no_grad()
def _update_running(
    norms: Sequence[_BatchNorm], of_group: Sequence[int], means: Tensor, variances: Tensor, count: int
) -> None:
    """r <- (1 - m) r + m s for every group in turn; `means` and (biased) `variances` are [G, C].

    Operations on lists, which Inductor makes one kernel of.
    """
    for groups in _rounds(of_group):
        running: list[Tensor] = []
        batch: list[Tensor] = []
        for group in groups:
            norm = norms[of_group[group]]
            assert norm.running_mean is not None and norm.running_var is not None
            running += [norm.running_mean, norm.running_var]
            batch += [means[group], variances[group] * (count / (count - 1))]
        momentum = norms[0].momentum
        assert momentum is not None
        private_torch.scale_all_(running, 1 - momentum)
        private_torch.add_all_(running, batch, alpha=momentum)


class _GroupNormalisation(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias for each group; also gives mean and biased variance [G, C].

    `affine` are the weights [C] of every branch, then their biases.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, of_group: tuple[int, ...], eps: float, *affine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        branches = len(affine) // 2
        values = features.to(torch.promote_types(features.dtype, torch.float32))
        variances, means = torch.var_mean(_grouped(values, len(of_group)), _all_but_channels(features), correction=0)
        inverse = torch.rsqrt(variances + eps)
        scale = _of_each_group(affine[:branches], of_group) * inverse
        shift = _of_each_group(affine[branches:], of_group) - means * scale
        normalised = (values * _each(scale, features) + _each(shift, features)).to(features.dtype)
        ctx.save_for_backward(features, means, inverse, *affine[:branches])
        ctx.of_group = of_group
        ctx.mark_non_differentiable(means, variances)
        return normalised, means, variances

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, means, inverse, *weights = ctx.saved_tensors
        of_group = ctx.of_group
        groups = len(of_group)
        gradient = gradients[0].to(inverse.dtype)
        centred = features.to(inverse.dtype) - _each(means, features)
        dimensions = _all_but_channels(features)
        total = _grouped(gradient, groups).sum(dimensions)
        along = _grouped(gradient * centred, groups).sum(dimensions)
        count = features.numel() // means.numel()
        # dx = w s (g - mean(g) - (x - mean) s^2 mean(g (x - mean))), s = 1 / sqrt(var + eps)
        scale = _of_each_group(weights, of_group) * inverse
        slope = inverse.square() * along / count
        of_features = (gradient - _each(total / count, features) - centred * _each(slope, features)) * _each(
            scale, features
        )
        first, *further = _rounds(of_group)
        of_affine = [along[group] * inverse[group] for group in first] + [total[group] for group in first]
        for own in further:
            more = [along[group] * inverse[group] for group in own] + [total[group] for group in own]
            place = [of_group[group] for group in own]
            place += [len(first) + branch for branch in place]
            for at, value in zip(place, private_torch.sums([of_affine[at] for at in place], more), strict=True):
                of_affine[at] = value
        return of_features.to(features.dtype), None, None, *(value.to(weights[0].dtype) for value in of_affine)


def _rounds(of_group: Sequence[int]) -> list[list[int]]:
    """The groups by how often their branch has occurred before: each round holds a branch at most once, the first all."""
    rounds: list[list[int]] = []
    for group, branch in enumerate(of_group):
        before = list(of_group[:group]).count(branch)
        if before == len(rounds):
            rounds.append([])
        rounds[before].append(group)
    return rounds


def _grouped(values: Tensor, groups: int) -> Tensor:
    return values.unflatten(0, (groups, -1))


def _all_but_channels(features: Tensor) -> list[int]:
    """Of a grouped view [G, n, C, ...]."""
    return [1, *range(3, features.ndim + 1)]


def _of_each_group(values: Sequence[Tensor], of_group: Sequence[int]) -> Tensor:
    """[C] of every branch -> [G, C]; by comparisons, which Inductor computes where they are used: a stack is a kernel."""
    index = torch.arange(len(of_group), device=values[0].device)[:, None]
    chosen = values[of_group[-1]].expand(len(of_group), -1)
    for group in range(len(of_group) - 2, -1, -1):
        if of_group[group] != of_group[group + 1]:
            chosen = torch.where(index <= group, values[of_group[group]], chosen)
    return chosen


def _each(values: Tensor, features: Tensor) -> Tensor:
    """[G, C] -> [N, C, 1, ...] for every image of its group.

    Of the features' own rank: Inductor does not keep channels_last through an axis of groups.
    """
    groups, channels = values.shape
    images = values[:, None].expand(groups, features.shape[0] // groups, channels)
    return images.reshape(features.shape[0], channels, *(1,) * (features.ndim - 2))
