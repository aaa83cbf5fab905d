"""Averages of a classifier's weights: exponential, per step (EMA), and the plain mean over ends of epochs (SWA).

An average is a network of its own beside the classifier, as torch.optim.swa_utils.AveragedModel's. Only weights are averaged:
statistics of a BatchNorm branch are not those of the averaged weights, whatever one averages, and are estimated anew
(`dat_engine.run.averaging`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dat_engine import private_torch
from dat_engine.model.copying import independent_copy
from dat_engine.profile.ranges import named_range
from dat_engine.step.weight_settings import EMASettings, SWASettings


class Average:
    """A copy of `model` whose trained weights are an average of its; in the modes (train, eval) of its parts.

    Args:
        bn_batches: training batches from which its statistics are estimated.
    """

    def __init__(self, model: nn.Module, *, bn_batches: int) -> None:
        self.bn_batches = bn_batches
        self.network = independent_copy(model).requires_grad_(False)
        pairs = zip(model.parameters(), self.network.parameters(), strict=True)
        trained = [(raw.detach(), own) for raw, own in pairs if raw.requires_grad]
        self._raw = [raw for raw, _ in trained]
        self._own = [own for _, own in trained]
        self.ready = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
        """1 where the statistics are those of the weights, which is when it can be evaluated; else 0."""

    @torch.no_grad()
    def _approach(self, share: Tensor | float) -> None:
        """own += share (raw - own); a share of 0 leaves every bit as it is."""
        ways = private_torch.differences(self._raw, self._own)
        private_torch.scale_all_(ways, share)
        private_torch.add_all_(self._own, ways)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "ready": self.ready.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """In place: a captured graph goes on writing to the same tensors."""
        self.network.load_state_dict(state["network"])
        self.ready.copy_(state["ready"])


class ExponentialAverage(Average):
    """own <- own + share (raw - own) after every step that counted, share = max(1 - decay, 1 / (n + 1)) after n of them.

    So it is the plain mean of the weights after each step until that looks back as far as the decay does. The initial weights
    are not in it: they would be most of it for 1 / (1 - decay) steps. AveragedModel, whose first update is a copy too, goes on
    with the share 1 - decay at once.
    """

    def __init__(self, model: nn.Module, *, decay: float, bn_batches: int) -> None:
        super().__init__(model, bn_batches=bn_batches)
        self._share = 1 - decay
        self._steps = torch.zeros_like(self.ready)

    @torch.no_grad()
    def follow(self, skipped: Tensor) -> None:
        """After a step; `skipped`: scalar on the device, 1 where the step changed nothing, else 0."""
        share = (self._steps + 1).to(self._own[0].dtype).reciprocal().clamp_min(self._share)
        self._approach(torch.where(skipped > 0, 0.0, share))
        self._steps.add_(skipped == 0)
        self.ready.mul_(skipped > 0)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": self._steps.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._steps.copy_(state["steps"])


class EpochAverage(Average):
    """The mean of the raw weights at the ends of all epochs that end later than `start`."""

    def __init__(self, model: nn.Module, *, start: float, bn_batches: int) -> None:
        super().__init__(model, bn_batches=bn_batches)
        self._start = start
        self._epochs = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def end_epoch(self, epochs_done: int) -> None:
        """Take up the weights at the end of an epoch; once, however often that end is reached in a run that was interrupted."""
        count = epochs_done - math.floor(self._start)
        if count <= int(self._epochs):
            return
        if count == 1:
            private_torch.copy_all_(self._own, self._raw)
        else:
            self._approach(1 / count)
        self._epochs.fill_(count)
        self.ready.zero_()

    @property
    def begun(self) -> bool:
        return int(self._epochs) > 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "epochs": self._epochs.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._epochs.copy_(state["epochs"])


class Averages:
    """Those that a step keeps; none where neither is asked for."""

    def __init__(self, model: nn.Module, ema: EMASettings | None, swa: SWASettings | None) -> None:
        self.ema: ExponentialAverage | None = None
        self.swa: EpochAverage | None = None
        if ema is not None and ema.decay is not None:
            self.ema = ExponentialAverage(model, decay=ema.decay, bn_batches=ema.bn_batches)
        if swa is not None and swa.start is not None:
            self.swa = EpochAverage(model, start=swa.start, bn_batches=swa.bn_batches)

    @property
    def by_name(self) -> dict[str, Average]:
        found = {"ema": self.ema, "swa": self.swa}
        return {name: average for name, average in found.items() if average is not None}

    def follow(self, skipped: Tensor) -> None:
        """After a step; see `ExponentialAverage.follow`."""
        if self.ema is not None:
            with named_range("optimizer"):
                self.ema.follow(skipped)

    def end_epoch(self, epochs_done: int) -> None:
        """See `EpochAverage.end_epoch`."""
        if self.swa is not None:
            self.swa.end_epoch(epochs_done)

    def unready(self) -> list[Average]:
        """Those that hold an average and whose statistics are not its own; waits for the device."""
        held = [self.ema, self.swa if self.swa is not None and self.swa.begun else None]
        return [average for average in held if average is not None and not average.ready]

    def state_dict(self) -> dict[str, Any]:
        """By name; empty where there is none."""
        return {name: average.state_dict() for name, average in self.by_name.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, average in self.by_name.items():
            average.load_state_dict(state[name])
