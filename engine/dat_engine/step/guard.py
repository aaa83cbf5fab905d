"""A non-finite loss or gradient changes no weight and no running statistic; too many steps of that kind end a run.

All of it is decided on the device, once for a step: whichever of its passes was bad, every one of them is undone. After the
last of those steps the guard takes every further one for a bad one too, so it makes no difference how much later the host hears
of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _NormBase

from dat_engine import private_torch
from dat_engine.step.host_copy import HostCopy
from dat_engine.step.optimizers import step_unless

MAX_NONFINITE_STEPS = 20


class NonFiniteError(RuntimeError):
    """Training diverged: too many non-finite steps in a row."""


class Guard:
    """Watches the passes of a step, keeps what they may not change, and owns fp16's dynamic loss scale.

    Args:
        model: network whose running statistics, where it has any, a bad pass must not touch.
        others: the other players' networks, likewise.
        scales_loss: whether losses are multiplied by a dynamic scale (fp16) that halves on overflow and doubles after
            2,000 good steps, as torch's GradScaler does.
        many: whether other processes train the same weights: a pass that is bad in one of them is bad in all.
        limit: bad steps in a row after which training has diverged: no later step changes anything.
        undone: tensors that an early pass of a step may have changed when a later one turns out bad; they are saved before
            every step, so that a step counts as a whole or not at all. None where one pass decides.
    """

    def __init__(
        self,
        model: nn.Module,
        others: Sequence[nn.Module] = (),
        *,
        scales_loss: bool,
        many: bool = False,
        limit: int = MAX_NONFINITE_STEPS,
        undone: Sequence[Tensor] = (),
    ) -> None:
        if limit < 1:
            raise ValueError(f"the limit of non-finite steps in a row must be at least 1; got {limit}")
        self._statistics = _RunningStatistics(model)
        self._all_statistics = [self._statistics, *(_RunningStatistics(other) for other in others)]
        self._undone = list(undone)
        self._before = [tensor.detach().clone() for tensor in self._undone]
        device = next(model.parameters()).device
        self._scales_loss = scales_loss
        self._many = many
        self._scale = torch.full((), 2.0**16 if scales_loss else 1.0, device=device)
        self._growth = torch.zeros((), dtype=torch.int32, device=device)
        self._found = torch.zeros((), device=device)
        self._loss_was_bad = torch.zeros((), device=device)
        self._limit = limit
        self._consecutive = torch.zeros((), dtype=torch.int64, device=device)
        self._frozen_steps = torch.zeros((), dtype=torch.int64, device=device)
        self._total = torch.zeros((), dtype=torch.int64, device=device)
        self._consecutive_on_host = HostCopy(self._consecutive)
        self.skipped = torch.zeros((), device=device)
        """1.0 where the present step skipped an update, else 0.0."""

    @torch.no_grad()
    def begin_step(self) -> None:
        self.skipped.zero_()
        for statistics in self._all_statistics:
            statistics.save()
        if self._undone:
            private_torch.copy_all_(self._before, [tensor.detach() for tensor in self._undone])

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self._scale if self._scales_loss else loss

    @torch.no_grad()
    def check(self, losses: Iterable[Tensor], parameters: Iterable[nn.Parameter]) -> None:
        """Unscale the gradients of `parameters` in place and note whether they or a loss are non-finite."""
        diverged = self._diverged
        self._found.copy_(diverged)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        private_torch.unscale_and_find_nonfinite_(gradients, self._found, self._scale.reciprocal())
        loss_is_bad = torch.zeros_like(self._found)
        for loss in losses:
            loss_is_bad = torch.maximum(loss_is_bad, (~torch.isfinite(loss.detach())).to(self._found.dtype))
        self._loss_was_bad.copy_(torch.where(diverged, self._loss_was_bad, loss_is_bad))
        self._found.copy_(torch.maximum(self._found, loss_is_bad))
        if self._many:
            distributed.all_reduce(self._found, distributed.ReduceOp.MAX)

    def step(self, optimizer: torch.optim.Optimizer, rests: Tensor | None = None) -> None:
        """One step of `optimizer`, unless its pass was bad or its player rests (float32 scalar, 0 or 1)."""
        step_unless(optimizer, self._found if rests is None else torch.maximum(self._found, rests))

    @torch.no_grad()
    def settle(self) -> None:
        """End of a pass whose gradients were applied."""
        self.skipped.copy_(torch.maximum(self.skipped, self._found))

    @torch.no_grad()
    def end_step(self) -> None:
        """Undo the step where a pass of it was bad, adapt the loss scale, count."""
        if self._scales_loss:  # here and not pass by pass, so that two bad passes halve it once
            before = self._scale.clone()
            private_torch.update_loss_scale_(
                self._scale, self._growth, self.skipped, growth=2.0, backoff=0.5, interval=2000
            )
            self._scale.copy_(torch.where(self._diverged, before, self._scale))
        for statistics in self._all_statistics:
            statistics.restore_where(self.skipped)
        for tensor, before in zip(self._undone, self._before, strict=True):
            tensor.copy_(torch.where(self.skipped > 0, before, tensor))
        diverged = self._diverged
        bad = (self.skipped > 0) & ~diverged
        self._frozen_steps.add_(diverged)
        self._consecutive.copy_(torch.where(diverged, self._consecutive, (self._consecutive + 1) * bad))
        self._total.add_(bad)

    @contextmanager
    def keeping_statistics(self) -> Iterator[None]:
        """The model's running statistics are after the block what they were before it.

        Not those of the others: a graph that leads through them is waiting for its backward pass, and writing to what it
        has saved would break it.
        """
        before = self._statistics.copy()
        yield
        self._statistics.put_back(before)

    @contextmanager
    def keeping_all_statistics(self) -> Iterator[None]:
        """The running statistics of all networks are after the block what they were before it; for use between steps."""
        before = [statistics.copy() for statistics in self._all_statistics]
        try:
            yield
        finally:
            for statistics, saved in zip(self._all_statistics, before, strict=True):
                statistics.put_back(saved)

    @property
    def _diverged(self) -> Tensor:
        """Whether the limit has been reached: bool scalar on the device; once true it stays so."""
        return self._consecutive >= self._limit

    def seen_to_diverge(self) -> bool:
        """Whether the host knows that the limit has been reached, without waiting; ask after every step.

        On the CPU the answer is that of the step just done, on a GPU that of the newest step whose count has arrived.
        """
        consecutive = self._consecutive_on_host.latest()
        return consecutive is not None and consecutive >= self._limit

    def raise_if_diverged(self, *, step: int) -> None:
        """Wait for the device and look. An overflow that only makes fp16's scale shrink counts like any other bad step.

        Args:
            step: number of the step done last.

        Raises:
            NonFiniteError: the limit has been reached; names the step at which it was, and the cause.
        """
        consecutive = int(self._consecutive)
        if consecutive >= self._limit:
            cause = "the loss is not finite" if bool(self._loss_was_bad) else "the loss is finite, its gradient is not"
            raise NonFiniteError(
                f"stopped at step {step - int(self._frozen_steps)}: {consecutive} steps in a row were skipped because "
                f"{cause}; the weights are those of the last good step; lower the learning rate, or train in fp32 with "
                "--precision.name fp32"
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
        self._frozen_steps.zero_()
        self._consecutive_on_host.forget()
        self._total.copy_(state["total"])

    @property
    def statistics(self) -> Tensor:
        """All running means and variances of the model as one vector; writing into it changes the model."""
        return self._statistics.flat


class _RunningStatistics:
    """Running means and variances of a network as one tensor that their buffers are views of, its counters of batches as
    another: one copy saves all.
    """

    def __init__(self, module: nn.Module) -> None:
        # BatchNorm, and InstanceNorm where it keeps statistics
        layers = [layer for layer in module.modules() if isinstance(layer, _NormBase) and layer.track_running_stats]
        buffers = [(layer, name, getattr(layer, name)) for layer in layers for name in ("running_mean", "running_var")]
        nothing = next(module.parameters()).new_zeros(0)
        self.flat = torch.cat([nothing, *(buffer for _, _, buffer in buffers)])
        position = 0
        for layer, name, buffer in buffers:
            setattr(layer, name, self.flat[position : position + buffer.numel()])
            position += buffer.numel()
        # with momentum=None a layer's statistics are means over as many batches as it has counted
        counting = [layer for layer in layers if layer.num_batches_tracked is not None]
        self._counts = (
            torch.stack([torch.as_tensor(layer.num_batches_tracked) for layer in counting]) if counting else None
        )
        for index, layer in enumerate(counting):
            assert self._counts is not None
            layer.num_batches_tracked = self._counts[index]
        self._tensors = [self.flat] if self._counts is None else [self.flat, self._counts]
        self._saved = self.copy()

    def copy(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self._tensors]

    @torch.no_grad()
    def put_back(self, saved: Sequence[Tensor]) -> None:
        for tensor, before in zip(self._tensors, saved, strict=True):
            tensor.copy_(before)

    def save(self) -> None:
        for tensor, saved in zip(self._tensors, self._saved, strict=True):
            saved.copy_(tensor)

    def restore_where(self, bad: Tensor) -> None:
        """Go back to what was saved if `bad` (scalar) is positive, without asking the device."""
        for tensor, saved in zip(self._tensors, self._saved, strict=True):
            tensor.copy_(torch.where(bad > 0, saved, tensor))
