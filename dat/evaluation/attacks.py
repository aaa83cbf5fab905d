"""The attacks of an evaluation by name; a new one is a function that makes it and one line in `REGISTRY`, or `register`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dat.losses import cross_entropy_ascent
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, LogitGradient, draw_start, pgd_attack
from dat_engine.errors import UserError, unknown_name
from dat_engine.model.as_found import device_of

MARGIN = 10.0  # confidence of the C&W loss in the published protocol

Perturb = Callable[[Tensor, Tensor], Tensor]
"""Images [B, C, H, W] in [0, 1] and targets [B] -> adversarial images of the same shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Victim:
    """What an attack is told of the model that it attacks."""

    model: nn.Module
    attack_model: AttackModel | None
    """None where no attack that was asked for follows a view's gradient."""
    layout: tuple[str, ...]
    num_classes: int
    epsilon: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """How it is called, and how it is made for one model; its random numbers are the generator's."""

    title: str
    create: Callable[[Victim, torch.Generator], Perturb]
    follows_gradient: bool = False


def gradient_attack(
    title: str, *, steps: int, step_share: float, objective: Callable[[Tensor, int], LogitGradient]
) -> Attack:
    """Uniform start, then `steps` steps of `step_share` epsilon along the sign of the objective's gradient."""

    def create(victim: Victim, generator: torch.Generator) -> Perturb:
        settings = AttackSettings(epsilon=victim.epsilon, step_size=step_share * victim.epsilon, steps=steps)

        def perturb(images: Tensor, targets: Tensor) -> Tensor:
            assert victim.attack_model is not None
            start = draw_start(generator)
            gradient = objective(targets, victim.num_classes)
            return pgd_attack(victim.attack_model, images, gradient, settings, start, layout=victim.layout)

        return perturb

    return Attack(title=title, create=create, follows_gradient=True)


def _margin(targets: Tensor, num_classes: int) -> LogitGradient:
    """Ascent on ``-relu(z_y - max_{k != y} z_k + 10)``, the maximum taken over the other classes only."""
    is_target = functional.one_hot(targets, num_classes).bool()

    def gradient(logits: Tensor) -> Tensor:
        others = logits.masked_fill(is_target, -math.inf)
        strongest = functional.one_hot(others.argmax(dim=1), num_classes).to(logits.dtype)
        target = logits.gather(1, targets[:, None])
        counts = (target - others.amax(dim=1, keepdim=True) + MARGIN > 0).to(logits.dtype)
        return counts * (strongest - is_target.to(logits.dtype))

    return gradient


def _none(victim: Victim, generator: torch.Generator) -> Perturb:
    return lambda images, targets: images


def _autoattack(victim: Victim, generator: torch.Generator) -> Perturb:
    from pyautoattack import AutoAttack  # optional; `parse_attacks` has looked

    adversary = AutoAttack(
        victim.model,
        norm="Linf",
        eps=victim.epsilon,
        version="standard",
        device=device_of(victim.model),
        seed=generator.initial_seed(),
    )
    adversary.verbose = False

    def perturb(images: Tensor, targets: Tensor) -> Tensor:
        with torch.enable_grad():
            adversarial, _ = adversary.run_standard_evaluation(images, targets, batch_size=len(targets))
        return adversarial

    return perturb


REGISTRY = {
    "natural": Attack(title="natural", create=_none),
    "fgsm": gradient_attack("FGSM", steps=1, step_share=2.0, objective=cross_entropy_ascent),
    "pgd20": gradient_attack("PGD-20", steps=20, step_share=0.25, objective=cross_entropy_ascent),
    "pgd100": gradient_attack("PGD-100", steps=100, step_share=0.25, objective=cross_entropy_ascent),
    "cw": gradient_attack("C&W", steps=100, step_share=0.25, objective=_margin),
    "aa": Attack(title="AutoAttack", create=_autoattack),
}
ATTACKS = tuple(REGISTRY)
TITLES = {name: attack.title for name, attack in REGISTRY.items()}


def register(name: str, attack: Attack) -> None:
    """Make an attack known by `name` to evaluations in this process.

    Raises:
        UserError: a name that is taken or cannot stand in a list of names.
    """
    if name in REGISTRY:
        raise UserError(f"there is an attack called {name} already; choose another name")
    if not name.isidentifier():
        raise UserError(f"{name!r} cannot name an attack; use letters, digits and underscores, as in pgd50")
    REGISTRY[name] = attack
    TITLES[name] = attack.title


def parse_attacks(text: str | Sequence[str]) -> tuple[str, ...]:
    """``"natural,pgd20"`` -> its attacks, each once.

    Raises:
        UserError: an unknown attack, none, or AutoAttack where it is not installed.
    """
    names = tuple(name.strip() for name in (text.split(",") if isinstance(text, str) else text) if name.strip())
    for name in names:
        if name not in REGISTRY:
            raise unknown_name("attack", name, REGISTRY)
    if not names:
        raise UserError(f"attacks are a comma-separated choice of {', '.join(REGISTRY)}; got {text!r}")
    if "aa" in names and importlib.util.find_spec("pyautoattack") is None:
        raise UserError("AutoAttack is an optional dependency; install it with: pip install 'dat-engine[autoattack]'")
    return tuple(dict.fromkeys(names))
