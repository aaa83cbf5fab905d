"""One training step: views -> attack -> joint loss -> update, as a function of tensors without host synchronisation.

The method says which networks play and what each of them wants; `dat_engine.step.updates` says how their gradients come about.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dat_engine import private_torch
from dat_engine.attack.attack_model import AttackModel, Branching
from dat_engine.data import Batch
from dat_engine.distributed import ONE_PROCESS, Processes
from dat_engine.errors import UserError
from dat_engine.model.bf16_forward import BF16Forward
from dat_engine.model.branches import branch_layout, normalise_at_once, uncounted_batches
from dat_engine.model.precision import Precision
from dat_engine.model.strided_convolutions import keep_out_of_channels_last
from dat_engine.profile.ranges import named_range
from dat_engine.step import shared_weights
from dat_engine.step.averages import Averages
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.evaluated import evaluated_model
from dat_engine.step.first_batch import check_first_batch
from dat_engine.step.guard import MAX_NONFINITE_STEPS, Guard
from dat_engine.step.means import StepMetrics
from dat_engine.step.method import Examples, JointPass, Method, Noise, UpdateMode
from dat_engine.step.optimizers import OptimizerSettings, set_learning_rate, why_not_captured
from dat_engine.step.players import Player, Seat, check_gradients, check_objectives, moved_tensors, take_seats
from dat_engine.step.progress import TrainingProgress
from dat_engine.step.switches import Switches
from dat_engine.step.updates import RULES, Outcome, WeightPerturbation
from dat_engine.step.weight_settings import EMASettings, SWASettings

Forward = Callable[[Tensor], Tensor]
ForwardWith = Callable[[dict[str, Tensor], Tensor], Tensor]


class TrainingStep:
    """Owns what a step changes: the players' networks and optimizers, loss scale, non-finite counters, random state.

    Args:
        model: the classifier on its device, in float32 (float64 under ``fp64``), branched as the method's layout needs; one
            without any BatchNorm (LayerNorm, GroupNorm, …) has nothing to branch and takes every layout as it is.
        method: see `dat_engine.step.method.Method`.
        optimizer: of every player that brings no settings of its own.
        update: how players beside the classifier get their gradients; None: the method's own way.
        weight_perturbation: moves the classifier's weights around its gradient, whatever the method; None: the method's own.
        ema, swa: which averages of the classifier's weights are kept beside them.
        branching: how the attack model runs groups of several branches, see `dat_engine.attack.attack_model.AttackModel`.
        compiled: run attack model, joint forward and losses through torch.compile; shapes are static. In half precision, and
            in one process, the joint forward then takes the weights that a grouped attack model has converted.
        switches: ways of running it that do not change what is computed.
        processes: with more than one, all players train under DistributedDataParallel; the attack exchanges nothing.
        seed: of the random numbers that the method draws; each process has its own.
        max_nonfinite_steps: skipped steps in a row after which none changes anything any more (`dat_engine.step.guard`).

    Raises:
        UserError: players that cannot play together (`dat_engine.step.players.take_seats`), weights to perturb or to average
            where none are trained.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        *,
        optimizer: OptimizerSettings,
        precision: Precision | None = None,
        update: UpdateMode | None = None,
        weight_perturbation: WeightPerturbation | None = None,
        ema: EMASettings | None = None,
        swa: SWASettings | None = None,
        branching: Branching = "folded",
        compiled: bool = False,
        switches: Switches | None = None,
        processes: Processes = ONE_PROCESS,
        seed: int = 0,
        max_nonfinite_steps: int = MAX_NONFINITE_STEPS,
    ) -> None:
        self.update = update or method.update
        if self.update not in RULES:
            raise UserError(f"update must be {' or '.join(map(repr, RULES))}; got {self.update!r}")
        self._weight_perturbation = weight_perturbation or method.weight_perturbation
        self.precision = precision or Precision()
        self.switches = switches or Switches()
        compile_options = private_torch.dependent_launch_options() if self.switches.dependent_launch else {}
        compile_: Callable[..., Any] = partial(torch.compile, dynamic=False, options=compile_options or None)
        self.device = next(model.parameters()).device
        self.model = model.to(memory_format=self.precision.memory_format).train()
        keep_out_of_channels_last(model, self.precision)
        self.method = method
        self.progress = TrainingProgress.at_start(self.device)
        self._processes = processes
        self._many = processes.world_size > 1
        self.players = method.players(model)
        for player in self.players:
            player.network.to(self.device)
        seats = take_seats(self.players, optimizer)
        parts = set(model.modules())
        self.own_seats = tuple(seat for seat in seats if seat.player.network in parts)
        self.other_seats = tuple(seat for seat in seats if seat.player.network not in parts)
        self._beside_model = [player for player in self.players if player.network not in parts]
        self.averages = Averages(model, ema, swa)
        if not self.own_seats and (self._weight_perturbation is not None or self.averages.by_name):
            raise UserError(
                "the whole classifier is frozen, so there are no weights to perturb or to average; leave awp.gamma, ema.decay "
                "and swa.start out"
            )
        if isinstance(self._weight_perturbation, AdversarialWeightPerturbation):
            self._weight_perturbation.check(self.own_seats)
        # before attack model and DistributedDataParallel, which hold on to the buffers that they find: the guard makes new ones
        self.guard = Guard(
            model,
            [player.network for player in self._beside_model],
            scales_loss=self.precision.scales_loss,
            many=self._many,
            limit=max_nonfinite_steps,
            undone=moved_tensors(seats) if self.update == "alternating" and self.other_seats else (),
        )
        self._branching, self._compile = branching, compile_ if compiled else None
        self.attack_model = self.attack_model_of(model, compiled=True)
        self._forward: Forward = model
        if self._many:
            self._forward = processes.distribute(model)
        for seat in self.other_seats:
            self._give_stand_in(seat.player)
        self._local_forward: Forward = model
        self._terms = self._losses
        if compiled:
            self._forward = compile_(self._forward)
            self._local_forward = compile_(model) if self._many else self._forward
            self._terms = compile_(self._losses)
        self._uncounted: dict[tuple[str, ...], tuple[list[Tensor], list[int]]] = {}
        self._counts_batches = compiled and not self._many
        if self._counts_batches:
            normalise_at_once(model)
        self._forward_with: ForwardWith | None = None
        # DistributedDataParallel looks after its own parameters
        if compiled and not self._many and self.precision.is_half:
            self._forward_with = compile_(self._functional_forward)
        self._has_seen_a_batch = False
        self._steps_done = torch.zeros((), dtype=torch.int64, device=self.device)
        self.seed = seed
        self.generator = torch.Generator(self.device).manual_seed(seed + 1_000_003 * processes.rank)

    def _give_stand_in(self, player: Player) -> None:
        """What the forward of a network beside the classifier is run through, where its player takes anything else."""
        if player.use is None:
            return
        stand_in = self._processes.distribute(player.network) if self._many else player.network
        if self.switches.bf16_players:
            stand_in = BF16Forward(stand_in)
        if self._compile is not None and self.switches.compile_players and not self._many:
            stand_in = self._compile(stand_in)
        if stand_in is not player.network:
            player.use(stand_in)

    def __call__(self, batch: Batch, noise: Noise | None = None) -> dict[str, Tensor]:
        """Train on one batch; returns detached scalars: the method's terms, `accuracy` in [0, 1], `skipped` (0 or 1).

        Raises:
            DataError: the first batch cannot be trained on (`dat_engine.step.first_batch`).
        """
        self.check_if_first(batch)
        with self.switches.on():
            return self._step(batch, noise)

    def _step(self, batch: Batch, noise: Noise | None) -> dict[str, Tensor]:
        self.guard.begin_step()
        if self.attack_model is not None:
            with named_range("clean forward"):
                self.attack_model.refresh()
        with torch.no_grad():
            noise = self.method.draw_noise(batch, self.generator) if noise is None else noise
        examples = self.method.examples(self.attack_model, batch, noise, self.progress)
        if len(examples.groups) != len(self.method.layout):
            raise UserError(
                f"the method's examples are {len(examples.groups)} groups and its layout ({', '.join(self.method.layout)}) "
                f"names the branches of {len(self.method.layout)}"
            )
        outcome = RULES[self.update](self, examples, batch)
        self.guard.end_step()
        self.averages.follow(self.guard.skipped)
        self._steps_done.add_(1)
        predictions = outcome.logits[self.method.adversarial_group].detach().argmax(dim=1)
        metrics = {name: term.detach() for name, term in outcome.terms.items()}
        classes = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(dim=1)
        metrics["accuracy"] = (predictions == classes).float().mean()
        metrics["skipped"] = self.guard.skipped.clone()
        return StepMetrics(metrics)

    def check_if_first(self, batch: Batch) -> None:
        """Look at the first batch that this step is given, before it changes anything; does nothing from then on.

        For whoever captures a graph: the look waits for the device.
        """
        if not self._has_seen_a_batch:
            needs = self.method
            check_first_batch(
                batch, self.model, extra_views=needs.extra_views, takes_soft_labels=needs.takes_soft_labels
            )
            self._has_seen_a_batch = True

    def attack_model_of(
        self, model: nn.Module, layouts: Sequence[tuple[str, ...]] | None = None, *, compiled: bool = False
    ) -> AttackModel | None:
        """The classifier, or an average of it, as this step's attack sees it; None for no layout.

        Args:
            layouts: None: those that the method asks for.
            compiled: run it through torch.compile where the step is.
        """
        layouts = self.method.attack_layouts if layouts is None else layouts
        if not layouts:
            return None
        return AttackModel(
            model,
            layouts,
            dtype=self.precision.dtype,
            memory_format=self.precision.memory_format,
            branching=self._branching,
            compiled=self._compile if compiled else None,
            padded_stem=self.switches.padded_stem,
            fused_epilogues=self.switches.fused_epilogues,
        )

    @property
    def compiled(self) -> bool:
        """Whether its parts run through torch.compile."""
        return self._compile is not None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The classifier's, or that of the first player where the whole classifier is frozen."""
        return (*self.own_seats, *self.other_seats)[0].optimizer

    def set_learning_rate(self, learning_rate: float) -> None:
        """Write the schedule's rate, in place, for every player that has the run's optimizer settings."""
        for seat in (*self.own_seats, *self.other_seats):
            if seat.follows_schedule:
                set_learning_rate(seat.optimizer, learning_rate)

    @property
    def evaluated_model(self) -> nn.Module:
        """The network that is validated, selected and evaluated (`dat_engine.step.evaluated`)."""
        return evaluated_model(self)

    @property
    def why_not_captured(self) -> str | None:
        """Why this step cannot be a CUDA graph, as a sentence; None where nothing is known to prevent it."""
        if self._many:
            return (
                "DistributedDataParallel holds on to gradient accumulators made outside the capture, "
                "and its exchange has not been tried inside a graph"
            )
        return why_not_captured(*(seat.optimizer for seat in (*self.own_seats, *self.other_seats)))

    @contextmanager
    def perturbed_weights(self, examples: Examples, batch: Batch) -> Iterator[None]:
        """See `dat_engine.step.updates.Passes`."""
        if self._weight_perturbation is None:
            yield
            return
        with self._weight_perturbation.around(self, examples, batch):
            yield

    def keeping_statistics(self) -> AbstractContextManager[None]:
        return self.guard.keeping_statistics()

    def joint_pass(self, examples: Examples, batch: Batch) -> Outcome:
        with named_range("joint"):
            forward = self._with_weight_copies(self._forward, renewed=self._weight_perturbation is not None)
            return self._outcome(self._train_logits(forward, examples.groups, self.method.layout), examples, batch)

    def second_pass(self, examples: Examples, batch: Batch) -> Outcome:
        logits: list[Tensor] = []
        pairs = zip(examples.groups, self.method.layout, strict=True)
        with named_range("joint"):
            forward = self._with_weight_copies(self._local_forward, renewed=True)
            for depends, run in itertools.groupby(pairs, key=lambda pair: pair[0].requires_grad):
                images, layout = zip(*run, strict=True)
                with torch.set_grad_enabled(depends):
                    logits.extend(self._train_logits(forward, images, layout))
            return self._outcome(tuple(logits), examples, batch)

    def backward(self, terms: dict[str, Tensor], seats: tuple[Seat, ...]) -> None:
        check_objectives(terms, seats)
        objectives = list(dict.fromkeys(seat.player.objective for seat in seats))
        with named_range("joint"):
            for seat in seats:
                for parameter in seat.parameters:
                    parameter.grad = None
            for index, objective in enumerate(objectives):
                followers = [seat for seat in seats if seat.player.objective == objective]
                # into .grad, not out of autograd.grad: DistributedDataParallel's hooks hang on the accumulation, and only it
                # gives gradients the strides of their parameters, which fused optimizers walk side by side as flat memory
                with self._processes.exchanging():
                    self.guard.scaled(terms[objective]).backward(
                        inputs=[parameter for seat in followers for parameter in seat.parameters],
                        retain_graph=index < len(objectives) - 1,
                    )
            check_gradients(seats)

    def move(self, terms: dict[str, Tensor], seats: tuple[Seat, ...]) -> None:
        with named_range("optimizer"):
            losses = [terms[objective] for objective in dict.fromkeys(seat.player.objective for seat in seats)]
            self.guard.check(losses, [parameter for seat in seats for parameter in seat.parameters])
            for seat in seats:
                self.guard.step(seat.optimizer, seat.rests(self._steps_done))
            self.guard.settle()

    def _with_weight_copies(self, forward: Forward, *, renewed: bool) -> Forward:
        """`forward`, or the same network on the attack model's half-precision weights, which autocast need not make again.

        Args:
            renewed: whether the weights have moved since the attack model was refreshed.
        """
        if self._forward_with is None or self.attack_model is None:
            return forward
        copies = self.attack_model.weight_copies
        if not copies:
            return forward
        if renewed:
            shared_weights.renew(self.model, copies)
        return partial(self._forward_with, shared_weights.differentiable_copies(self.model, copies))

    def _functional_forward(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.model, weights, (images,), tie_weights=False)
        return logits

    def _train_logits(
        self, forward: Forward, groups: tuple[Tensor, ...], layout: tuple[str, ...]
    ) -> tuple[Tensor, ...]:
        images = torch.cat(groups).contiguous(memory_format=self.precision.memory_format)
        with branch_layout(self.model, layout), self.precision.autocast(self.device), self._processes.exchanging():
            logits = forward(images)
        if self._counts_batches:
            self._count_batches(layout)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).chunk(len(groups))

    @torch.no_grad()
    def _count_batches(self, layout: tuple[str, ...]) -> None:
        """What the layers of a compiled joint pass leave to whoever runs it."""
        if layout not in self._uncounted:
            self._uncounted[layout] = uncounted_batches(self.model, layout)
        counters, amounts = self._uncounted[layout]
        if counters:
            private_torch.add_numbers_(counters, amounts)

    def _outcome(self, logits: tuple[Tensor, ...], examples: Examples, batch: Batch) -> Outcome:
        epoch, fraction = self.progress.epoch, self.progress.fraction
        terms = self._terms(logits, examples.groups, batch.targets, epoch, fraction, dict(examples.extras))
        return Outcome(logits=logits, terms=terms)

    def _losses(
        self,
        logits: tuple[Tensor, ...],
        groups: tuple[Tensor, ...],
        targets: Tensor,
        epoch: Tensor,
        fraction: Tensor,
        extras: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """The method's losses as a function of tensors alone, which is what torch.compile is given."""
        progress = TrainingProgress(epoch=epoch, fraction=fraction)
        return self.method.losses(
            JointPass(logits=logits, examples=groups, targets=targets, progress=progress, extras=extras)
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, apart from the data, and what is kept beside it."""
        averages = self.averages.state_dict()
        return {
            "model": self.model.state_dict(),
            "players": {player.name: player.network.state_dict() for player in self._beside_model},
            "optimizers": {seat.player.name: seat.state_dict() for seat in (*self.own_seats, *self.other_seats)},
            "generator": self.generator.get_state(),
            "guard": self.guard.state_dict(),
            "steps_done": self._steps_done.clone(),
            **({"averages": averages} if averages else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` gave, in place."""
        self.model.load_state_dict(state["model"])
        for player in self._beside_model:
            player.network.load_state_dict(state["players"][player.name])
        for seat in (*self.own_seats, *self.other_seats):
            seat.load_state_dict(state["optimizers"][seat.player.name])
        self.set_generator_state(state["generator"])
        self.guard.load_state_dict(state["guard"])
        self._steps_done.copy_(state["steps_done"])
        self.averages.load_state_dict(state.get("averages", {}))

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
        """Go back to a snapshot, in place; the attack model is refreshed from it."""
        self.load_state_dict(snapshot)
        if self.attack_model is not None:
            self.attack_model.refresh()
