"""A non-finite loss or gradient changes no weight and no running statistic; decided on the device, reported at log points."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dat_engine import private_torch
from dat_engine.step.optimizers import step_unless


class NonFiniteError(RuntimeError):
    """Training diverged: too many non-finite steps in a row."""


class Guard:
    """Watches the passes of a step, keeps what they may not change, and owns fp16's dynamic loss scale.

    Args:
        model: network whose BatchNorm statistics a bad pass must not touch.
        second_player: likewise, put back at the step's end: its one forward serves every pass of the step.
        scales_loss: whether losses are multiplied by a dynamic scale (fp16) that halves on overflow and doubles after
            2,000 good passes, as torch's GradScaler does.
        many: whether other processes train the same weights: a pass that is bad in one of them is bad in all.
    """

    def __init__(
        self, model: nn.Module, second_player: nn.Module | None = None, *, scales_loss: bool, many: bool = False
    ) -> None:
        self._statistics = _RunningStatistics(model)
        self._second_statistics = None if second_player is None else _RunningStatistics(second_player)
        device = next(model.parameters()).device
        self._scales_loss = scales_loss
        self._many = many
        self._scale = torch.full((), 2.0**16 if scales_loss else 1.0, device=device)
        self._growth = torch.zeros((), dtype=torch.int32, device=device)
        self._found = torch.zeros((), device=device)
        self._loss_was_bad = torch.zeros((), device=device)
        self._consecutive = torch.zeros((), dtype=torch.int64, device=device)
        self._longest = torch.zeros((), dtype=torch.int64, device=device)
        self._total = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), device=device)
        """1.0 where the present step skipped an update, else 0.0."""

    def begin_step(self) -> None:
        self.skipped.zero_()
        self._statistics.save()
        if self._second_statistics is not None:
            self._second_statistics.save()

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self._scale if self._scales_loss else loss

    @torch.no_grad()
    def check(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        """Unscale the gradients of `parameters` in place and note whether they or the loss are non-finite."""
        self._found.zero_()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        private_torch.unscale_and_find_nonfinite_(gradients, self._found, self._scale.reciprocal())
        loss_is_bad = (~torch.isfinite(loss.detach())).to(self._found.dtype)
        self._loss_was_bad.copy_(loss_is_bad)
        self._found.copy_(torch.maximum(self._found, loss_is_bad))
        if self._many:
            distributed.all_reduce(self._found, distributed.ReduceOp.MAX)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        step_unless(optimizer, self._found)

    @torch.no_grad()
    def settle(self) -> None:
        """End of a pass whose gradients were applied: put back the statistics of a bad one, keep those of a good one."""
        self._statistics.restore_where(self._found)
        self._statistics.save()
        self.skipped.copy_(torch.maximum(self.skipped, self._found))
        if self._scales_loss:
            private_torch.update_loss_scale_(
                self._scale, self._growth, self._found, growth=2.0, backoff=0.5, interval=2000
            )

    @torch.no_grad()
    def end_step(self) -> None:
        if self._second_statistics is not None:
            self._second_statistics.restore_where(self.skipped)
        bad = (self.skipped > 0).to(torch.int64)
        self._consecutive.copy_((self._consecutive + 1) * bad)
        self._longest.copy_(torch.maximum(self._longest, self._consecutive))
        self._total.add_(bad)

    def raise_if_diverged(self, *, step: int, limit: int) -> None:
        """Host check, for log points. An overflow that only makes fp16's scale shrink counts like any other bad step.

        Raises:
            NonFiniteError: at least `limit` bad steps in a row since the last look; names the step and the cause.
        """
        consecutive = int(self._longest)
        self._longest.copy_(self._consecutive)
        if consecutive >= limit:
            cause = "the loss is not finite" if bool(self._loss_was_bad) else "the loss is finite, its gradient is not"
            raise NonFiniteError(
                f"stopped at step {step}: {consecutive} steps in a row were skipped because {cause}; the weights are "
                "those of the last good step; lower the learning rate, or train in fp32 with --precision.name fp32"
            )

    @property
    def total_skipped(self) -> int:
        return int(self._total)

    def state_dict(self) -> dict[str, Any]:
        return {
            "scale": self._scale.clone(),
            "growth": self._growth.clone(),
            "consecutive": self._consecutive.clone(),
            "total": self._total.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scale.copy_(state["scale"])
        self._growth.copy_(state["growth"])
        self._consecutive.copy_(state["consecutive"])
        self._total.copy_(state["total"])

    @property
    def statistics(self) -> Tensor:
        """All running means and variances of the model as one vector; writing into it changes the model."""
        return self._statistics.flat


class _RunningStatistics:
    """All running means and variances of a network as one tensor that their buffers are views of: one copy saves all."""

    def __init__(self, module: nn.Module) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
        buffers = [(layer, name, getattr(layer, name)) for layer in layers for name in ("running_mean", "running_var")]
        self.flat = torch.cat([next(module.parameters()).new_zeros(0), *(buffer for _, _, buffer in buffers)])
        position = 0
        for layer, name, buffer in buffers:
            setattr(layer, name, self.flat[position : position + buffer.numel()])
            position += buffer.numel()
        self._saved = self.flat.clone()

    def save(self) -> None:
        self._saved.copy_(self.flat)

    def restore_where(self, bad: Tensor) -> None:
        """Go back to what was saved if `bad` (scalar) is positive, without asking the device."""
        self.flat.copy_(torch.where(bad > 0, self._saved, self.flat))
