"""One training step: views -> attack -> joint loss -> update, as a function of tensors without host synchronisation.

theta descends and the second player (where the method has one) ascends the same loss. ``joint`` takes both gradients from
one backward pass; ``alternating`` steps theta first and takes the second player's gradient from another forward pass at
the new theta, as the DAT authors' code does.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dat_engine.attack.attack_model import AttackModel, Branching
from dat_engine.data import Batch
from dat_engine.distributed import Processes
from dat_engine.model.branches import branch_layout
from dat_engine.model.precision import Precision
from dat_engine.profile.ranges import named_range
from dat_engine.step.first_batch import check_first_batch
from dat_engine.step.guard import MAX_NONFINITE_STEPS, Guard
from dat_engine.step.method import Method, Noise
from dat_engine.step.optimizers import (
    OptimizerSettings,
    SGDSettings,
    build_optimizer,
    load_optimizer_state,
    why_not_captured,
)

ONE_PROCESS = Processes()
UpdateMode = Literal["joint", "alternating"]
Groups = tuple[Tensor, ...]


class TrainingStep:
    """Owns what a step changes: model, second player, both optimizers, loss scale, non-finite counters, random state.

    Args:
        model: on its device, in float32 (float64 under ``fp64``), branched as the method's layout needs; one without any
            BatchNorm (LayerNorm, GroupNorm, …) has nothing to branch and takes every layout as it is.
        method: see `dat_engine.step.method.Method`.
        second_optimizer: of the second player; None: `optimizer` where that is SGD, else SGD with its defaults.
        update: how the second player's gradient is obtained; without one both modes are the same.
        branching: how the attack model runs groups of several branches, see `dat_engine.attack.attack_model.AttackModel`.
        compiled: run attack model, joint forward and losses through torch.compile; shapes are static.
        processes: with more than one, both networks train under DistributedDataParallel; the attack exchanges nothing.
        seed: of the step's own random numbers (start noise, latent codes, mixing weights); each process has its own.
        max_nonfinite_steps: skipped steps in a row after which none changes anything any more (`dat_engine.step.guard`).
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        *,
        optimizer: OptimizerSettings,
        second_optimizer: OptimizerSettings | None = None,
        precision: Precision | None = None,
        update: UpdateMode = "joint",
        branching: Branching = "folded",
        compiled: bool = False,
        processes: Processes = ONE_PROCESS,
        seed: int = 0,
        max_nonfinite_steps: int = MAX_NONFINITE_STEPS,
    ) -> None:
        if update not in ("joint", "alternating"):
            raise ValueError(f"update must be 'joint' or 'alternating'; got {update!r}")
        self.precision = precision or Precision()
        self.device = next(model.parameters()).device
        self.model = model.to(memory_format=self.precision.memory_format).train()
        self.method = method
        self.update = update
        self._processes = processes
        self._many = processes.world_size > 1
        self.optimizer = build_optimizer(model, optimizer)
        self.second_player = method.second_player
        self.second_optimizer: torch.optim.Optimizer | None = None
        if self.second_player is not None:
            self.second_player.train()
            if second_optimizer is None:
                second_optimizer = optimizer if isinstance(optimizer, SGDSettings) else SGDSettings()
            self.second_optimizer = build_optimizer(self.second_player, second_optimizer, maximize=True)
        # before view and DistributedDataParallel, which hold on to the buffers that they find: the guard makes new ones
        self.guard = Guard(
            model,
            self.second_player,
            scales_loss=self.precision.scales_loss,
            many=self._many,
            limit=max_nonfinite_steps,
        )
        self.attack_model: AttackModel | None = None
        if method.attack_layouts:
            self.attack_model = AttackModel(
                model,
                method.attack_layouts,
                dtype=self.precision.dtype,
                memory_format=self.precision.memory_format,
                branching=branching,
                compiled=compiled,
            )
        self._forward: Callable[[Tensor], Tensor] = model
        if self._many:
            self._forward = processes.distribute(model)
            if self.second_player is not None:
                method.distribute(processes.distribute)
        self._local_forward: Callable[[Tensor], Tensor] = model
        self._losses = method.losses
        if compiled:
            self._forward = torch.compile(self._forward, dynamic=False)
            self._local_forward = torch.compile(model, dynamic=False) if self._many else self._forward
            self._losses = torch.compile(method.losses, dynamic=False)
        self._has_seen_a_batch = False
        self.generator = torch.Generator(self.device).manual_seed(seed + 1_000_003 * processes.rank)

    def __call__(self, batch: Batch, noise: Noise | None = None) -> dict[str, Tensor]:
        """Train on one batch; returns detached scalars: the method's terms, `accuracy` in [0, 1], `skipped` (0 or 1).

        Raises:
            DataError: the first batch cannot be trained on (`dat_engine.step.first_batch`).
        """
        self.check_if_first(batch)
        self.guard.begin_step()
        if self.attack_model is not None:
            with named_range("clean forward"):
                self.attack_model.refresh()
        with torch.no_grad():
            noise = self.method.draw_noise(batch, self.generator) if noise is None else noise
        groups = self.method.examples(self.attack_model, batch, noise)
        if self.second_player is None or self.update == "joint":
            logits, terms = self._update_both(groups, batch.targets)
        else:
            logits, terms = self._update_in_turn(groups, batch.targets)
        self.guard.end_step()
        predictions = logits[self.method.adversarial_group].detach().argmax(dim=1)
        metrics = {name: term.detach() for name, term in terms.items()}
        metrics["accuracy"] = (predictions == batch.targets).float().mean()
        metrics["skipped"] = self.guard.skipped.clone()
        return metrics

    def check_if_first(self, batch: Batch) -> None:
        """Look at the first batch that this step is given, before it changes anything; does nothing from then on.

        For whoever captures a graph: the look waits for the device.
        """
        if not self._has_seen_a_batch:
            check_first_batch(batch, self.model)
            self._has_seen_a_batch = True

    @property
    def why_not_captured(self) -> str | None:
        """Why this step cannot be a CUDA graph, as a sentence; None where nothing is known to prevent it."""
        if self._many:
            return (
                "DistributedDataParallel holds on to gradient accumulators made outside the capture, "
                "and its exchange has not been tried inside a graph"
            )
        return why_not_captured(self.optimizer, self.second_optimizer)

    def _update_both(self, groups: Groups, targets: Tensor) -> tuple[Groups, dict[str, Tensor]]:
        with named_range("joint"):
            logits = self._train_logits(self._forward, groups, self.method.layout)
            terms = self._losses(logits, targets)
        psi = [] if self.second_player is None else list(self.second_player.parameters())
        self._apply(terms["loss"], [*self.model.parameters(), *psi], self.optimizer, self.second_optimizer)
        return logits, terms

    def _update_in_turn(self, groups: Groups, targets: Tensor) -> tuple[Groups, dict[str, Tensor]]:
        with named_range("joint"):
            logits = self._train_logits(self._forward, tuple(group.detach() for group in groups), self.method.layout)
            terms = self._losses(logits, targets)
        self._apply(terms["loss"], list(self.model.parameters()), self.optimizer)
        assert self.second_player is not None
        with named_range("joint"):
            at_new_theta = self._losses(self._logits_for_second_player(groups), targets)["loss"]
        self._apply(at_new_theta, list(self.second_player.parameters()), self.second_optimizer)
        return logits, terms

    def _apply(self, loss: Tensor, parameters: list[nn.Parameter], *optimizers: torch.optim.Optimizer | None) -> None:
        with named_range("joint"):
            for parameter in parameters:
                parameter.grad = None
            # into .grad, not out of autograd.grad: DistributedDataParallel's hooks hang on the accumulation, and only it
            # gives gradients the strides of their parameters, which fused optimizers walk side by side as flat memory
            with self._processes.exchanging():
                self.guard.scaled(loss).backward(inputs=parameters)
        with named_range("optimizer"):
            self.guard.check(loss, parameters)
            for optimizer in optimizers:
                if optimizer is not None:
                    self.guard.step(optimizer)
            self.guard.settle()

    def _logits_for_second_player(self, groups: Groups) -> Groups:
        """Train-mode logits in layout order; groups that do not depend on the second player build no graph."""
        logits: list[Tensor] = []
        pairs = zip(groups, self.method.layout, strict=True)
        for depends, run in itertools.groupby(pairs, key=lambda pair: pair[0].requires_grad):
            images, layout = zip(*run, strict=True)
            with torch.set_grad_enabled(depends):
                logits.extend(self._train_logits(self._local_forward, images, layout))
        return tuple(logits)

    def _train_logits(self, forward: Callable[[Tensor], Tensor], groups: Groups, layout: tuple[str, ...]) -> Groups:
        images = torch.cat(groups).contiguous(memory_format=self.precision.memory_format)
        with branch_layout(self.model, layout), self.precision.autocast(self.device), self._processes.exchanging():
            logits = forward(images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).chunk(len(groups))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, apart from the data."""
        return {
            "model": self.model.state_dict(),
            "second_player": None if self.second_player is None else self.second_player.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "second_optimizer": None if self.second_optimizer is None else self.second_optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` gave, in place."""
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        if self.second_player is not None and self.second_optimizer is not None:
            self.second_player.load_state_dict(state["second_player"])
            load_optimizer_state(self.second_optimizer, state["second_optimizer"])
        self.set_generator_state(state["generator"])
        self.guard.load_state_dict(state["guard"])

    def set_generator_state(self, state: Tensor) -> bool:
        """Go on with a saved random state; False, and nothing changed, where it is one of another kind of device."""
        own = self.generator.get_state()
        if state.numel() != own.numel():
            return False
        self.generator.set_state(state.cpu())
        return True

    def snapshot(self) -> dict[str, Any]:
        """A copy of `state_dict` that later steps do not change."""
        return copy.deepcopy(self.state_dict())

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot, in place; what the view was refreshed from is refreshed again."""
        self.load_state_dict(snapshot)
        if self.attack_model is not None:
            self.attack_model.refresh()
