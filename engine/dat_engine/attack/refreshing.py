"""Brings the tensors of an attack model up to date with the live model, many of them per launch.

A ResNet-18's attack model holds some hundred small tensors, and a step refreshes them all: one by one, on a GPU, their launches
cost more than their bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dat_engine import private_torch


class Refresher:
    """Collects what an attack model copies from its model, while it is built; called, it copies everything, in place.

    What is collected is read anew at every call, so buffers that the model replaces are followed where the source is a
    BatchNorm; a `copy` holds on to the tensor that it was given.
    """

    def __init__(self) -> None:
        self._norms: list[_BatchNorm] = []
        self._scales: list[Tensor] = []
        self._shifts: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._sources: list[Tensor] = []
        self._others: list[Callable[[], None]] = []

    def scale_and_shift(self, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
        """Two [C] tensors, of the statistics' dtype, that hold ``scale * x + shift`` = `norm` in eval mode after a call.

        Raises:
            ValueError: a BatchNorm without running statistics.
        """
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a BatchNorm without running statistics cannot be frozen; use track_running_stats=True")
        for known, scale, shift in zip(self._norms, self._scales, self._shifts, strict=True):
            if known is norm:
                return scale, shift
        self._norms.append(norm)
        self._scales.append(torch.ones_like(norm.running_var))
        self._shifts.append(torch.zeros_like(norm.running_mean))
        return self._scales[-1], self._shifts[-1]

    def copy(self, target: Tensor, source: Tensor) -> None:
        """`target` becomes `source`, converted to its dtype; a scale or shift is copied after it has been computed."""
        if target.is_floating_point():
            self._targets.append(target)
            self._sources.append(source)
        else:  # counters; a foreach copy of several dtypes would go one by one

            def refresh() -> None:
                target.copy_(source)

            self._others.append(refresh)

    def then(self, refresh: Callable[[], None]) -> None:
        """`refresh` is called after scales and shifts have been computed."""
        self._others.append(refresh)

    @torch.no_grad()
    def __call__(self) -> None:
        if self._norms:
            self._compute_scales_and_shifts()
        if self._targets:
            private_torch.copy_all_(self._targets, self._sources)
        for refresh in self._others:
            refresh()

    def _compute_scales_and_shifts(self) -> None:
        variances = [_given(norm.running_var) for norm in self._norms]
        scales = private_torch.sums(variances, [norm.eps for norm in self._norms])
        private_torch.rsqrt_all_(scales)
        affine = [index for index, norm in enumerate(self._norms) if norm.weight is not None]
        if affine:
            private_torch.multiply_all_([scales[i] for i in affine], [self._norms[i].weight for i in affine])
        shifts = private_torch.products([_given(norm.running_mean) for norm in self._norms], scales)
        private_torch.negate_all_(shifts)
        if affine:
            private_torch.add_all_([shifts[i] for i in affine], [self._norms[i].bias for i in affine])
        private_torch.copy_all_(self._scales, scales)
        private_torch.copy_all_(self._shifts, shifts)


def _given(statistic: Tensor | None) -> Tensor:
    assert statistic is not None
    return statistic
