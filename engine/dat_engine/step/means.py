"""Means of the scalars that steps return, kept on the device until somebody asks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dat_engine.distributed import Processes


class StepMetrics(dict[str, Tensor]):
    """One step's scalars by name, which include ``skipped`` (0 or 1), and what they add to sums over steps.

    The step makes both, so that a captured step makes them too: what is left to do afterwards is one addition.
    """

    def __init__(self, metrics: Mapping[str, Tensor]) -> None:
        super().__init__(metrics)
        self.names = [*(name for name in metrics if name != "skipped"), "skipped", "counted"]
        self.summands = self._summands()
        """float64, one for each of `names`: the scalars, 0 where the step was skipped; `skipped`; 1 - `skipped`."""

    @torch.no_grad()
    def _summands(self) -> Tensor:
        skipped = self["skipped"]
        summands = torch.stack([*(self[name] for name in self.names[:-1]), 1.0 - skipped]).double()
        summands[:-2].masked_fill_(skipped > 0, 0.0)  # not a product: a skipped step's scalars need not be finite
        return summands


class StepMeans:
    """Sums of each scalar over steps; a skipped step counts in `skipped` and in no other mean."""

    def __init__(self, sums: Mapping[str, Tensor] | None = None) -> None:
        self._names = list(sums or {})
        self._sums = torch.stack(list(sums.values())) if sums else None

    @property
    def sums(self) -> dict[str, Tensor]:
        """By name, float64; empty before the first step."""
        return {} if self._sums is None else dict(zip(self._names, self._sums.unbind(), strict=True))

    @torch.no_grad()
    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one step's scalars, which include ``skipped`` (0 or 1); nothing waits for the device."""
        step = metrics if isinstance(metrics, StepMetrics) else StepMetrics(metrics)
        if self._sums is None:
            self._names, self._sums = step.names, step.summands.clone()
            return
        if self._names != step.names:  # a checkpoint's, in another order
            own = self.sums
            self._names, self._sums = step.names, torch.stack([own[name] for name in step.names])
        self._sums.add_(step.summands)

    def means(self, processes: Processes) -> dict[str, float]:
        """Means over all processes' steps that counted (nan where none did); `skipped` is the share that did not."""
        values = [] if self._sums is None else self._sums.tolist()
        sums = processes.total(dict(zip(self._names, values, strict=True)))
        counted, skipped = sums.pop("counted"), sums.pop("skipped")
        means = {name: value / counted if counted else math.nan for name, value in sums.items()}
        return {**means, "skipped": skipped / (counted + skipped)}

    @classmethod
    def shared_out(cls, parts: list[dict[str, Tensor]], processes: Processes) -> StepMeans:
        """One process's share of the sums that other processes, however many, had collected."""
        share = 1.0 / processes.world_size
        return cls({name: share * torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]})
