"""The networks of a method, and what each of them wants: players of a game over the method's losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dat_engine.errors import UserError
from dat_engine.step.optimizers import OptimizerSettings, build_optimizer, load_optimizer_state


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Player:
    """One network that takes part in training.

    name: in checkpoints; ``"model"`` for the classifier. objective: the scalar of `Method.losses` that it follows, down
    ("descend") or up ("ascend"). optimizer: its own settings, whose rate is constant; None: the run's, whose rate follows
    the schedule. every: it moves at every n-th step, the first one included. frozen: it takes part, in eval mode, and
    nothing of it changes (a classifier behind a trained purifier). use: called, before the first step, with what its forward
    is to be run through (DistributedDataParallel, torch.compile, bfloat16) where it is not part of the classifier.
    """

    name: str
    network: nn.Module
    objective: str = "loss"
    direction: Literal["descend", "ascend"] = "descend"
    optimizer: OptimizerSettings | None = None
    every: int = 1
    frozen: bool = False
    use: Callable[[nn.Module], None] | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("descend", "ascend"):
            raise UserError(f"a player descends or ascends; got direction {self.direction!r} for {self.name}")
        if self.every < 1:
            raise UserError(f"player {self.name} must move at every n-th step, n at least 1; got every={self.every}")


class Seat:
    """A player that moves: its optimizer, and the parameters that follow its objective."""

    def __init__(self, player: Player, default: OptimizerSettings) -> None:
        self.player = player
        self.parameters = [parameter for parameter in player.network.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise UserError(
                f"player {player.name} has no parameter to train; mark it frozen=True, or leave requires_grad on"
            )
        self.optimizer = build_optimizer(
            player.network, player.optimizer or default, maximize=player.direction == "ascend"
        )

    @property
    def follows_schedule(self) -> bool:
        """Whether its learning rate is the run's."""
        return self.player.optimizer is None

    def rests(self, step: Tensor) -> Tensor | None:
        """Whether it sits out the step of that number (int64 scalar on the device), as float32 0 or 1; None: it never does."""
        if self.player.every == 1:
            return None
        return (step % self.player.every != 0).to(torch.float32)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_optimizer_state(self.optimizer, state)


def take_seats(players: tuple[Player, ...], default: OptimizerSettings) -> tuple[Seat, ...]:
    """The players that move, each with its optimizer; the others are frozen, in eval mode and without gradients.

    Raises:
        UserError: two players of one name, nobody who moves, or a parameter that two of them would move.
    """
    names = [player.name for player in players]
    if len(set(names)) != len(names):
        raise UserError(f"players need names of their own; got {', '.join(names)}")
    for player in players:
        if player.frozen:
            player.network.requires_grad_(False)
    seats = tuple(Seat(player, default) for player in players if not player.frozen)
    if not seats:
        raise UserError("a method needs a player that is not frozen")
    owners: dict[int, str] = {}
    for seat in seats:
        for parameter in seat.parameters:
            other = owners.setdefault(id(parameter), seat.player.name)
            if other != seat.player.name:
                raise UserError(
                    f"the players {other} and {seat.player.name} share a parameter, which only one may move"
                )
    set_modes(players)
    return seats


def moved_tensors(seats: tuple[Seat, ...]) -> list[Tensor]:
    """Every tensor that these players' optimizers change."""
    states = [state for seat in seats for state in seat.optimizer.state.values()]
    moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return [*(parameter for seat in seats for parameter in seat.parameters), *moments]


def check_objectives(terms: Mapping[str, Tensor], seats: tuple[Seat, ...]) -> None:
    """Raises UserError where a method's losses lack what a player follows, or ``"loss"``, which is what a run shows."""
    wanted = {"the run": "loss", **{f"player {seat.player.name}": seat.player.objective for seat in seats}}
    for who, objective in wanted.items():
        if objective not in terms:
            raise UserError(
                f"{who} follows {objective!r}, and the method's losses are {', '.join(terms)}; return it too"
            )
        if terms[objective].ndim:
            raise UserError(
                f"{objective!r} has the shape {tuple(terms[objective].shape)}; losses are means over the batch"
            )


def check_gradients(seats: tuple[Seat, ...]) -> None:
    """Raises UserError where a backward pass has reached no parameter of a player, which would stay as it is unnoticed."""
    for seat in seats:
        if all(parameter.grad is None for parameter in seat.parameters):
            raise UserError(
                f"{seat.player.objective!r} depends on no parameter of player {seat.player.name}; look for a detach on the "
                "way, name another objective, or mark the player frozen=True"
            )


def set_modes(players: tuple[Player, ...]) -> None:
    """Train mode for who moves, eval mode for who is frozen, also where one network holds the other."""
    for player in players:
        if not player.frozen:
            player.network.train()
    for player in players:
        if player.frozen:
            player.network.eval()
