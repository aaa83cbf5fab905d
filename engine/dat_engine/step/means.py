"""Means of the scalars that steps return, kept on the device until somebody asks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dat_engine.distributed import Processes


class StepMeans:
    """Sums of each scalar over steps; a skipped step counts in `skipped` and in no other mean."""

    def __init__(self, sums: Mapping[str, Tensor] | None = None) -> None:
        self.sums: dict[str, Tensor] = dict(sums or {})

    @torch.no_grad()
    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one step's scalars, which include ``skipped`` (0 or 1); nothing waits for the device."""
        skipped = metrics["skipped"].double()
        values = {
            name: value.double().masked_fill(skipped > 0, 0.0) for name, value in metrics.items() if name != "skipped"
        }
        for name, value in {**values, "skipped": skipped, "counted": 1.0 - skipped}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self, processes: Processes) -> dict[str, float]:
        """Means over all processes' steps that counted (nan where none did); `skipped` is the share that did not."""
        sums = processes.total({name: float(value) for name, value in self.sums.items()})
        counted, skipped = sums.pop("counted"), sums.pop("skipped")
        means = {name: value / counted if counted else math.nan for name, value in sums.items()}
        return {**means, "skipped": skipped / (counted + skipped)}

    @classmethod
    def shared_out(cls, parts: list[dict[str, Tensor]], processes: Processes) -> StepMeans:
        """One process's share of the sums that other processes, however many, had collected."""
        share = 1.0 / processes.world_size
        return cls({name: share * torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]})
