"""Robust accuracy by the paper's protocol: natural, FGSM, PGD-20, PGD-100, C&W-infinity, AutoAttack.

float32 (TF32 off), eval mode, branch base. Attacks other than AutoAttack follow the gradient of a attack model whose folded
weights are refreshed from the model; what is counted are the model's own predictions on the images they return.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dat.losses import smoothed_targets, soft_target_ascent
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, LogitGradient, draw_start, pgd_attack
from dat_engine.data import ImageSource, batches
from dat_engine.distributed import Processes
from dat_engine.errors import UserError, unknown_name

MARGIN = 10.0  # confidence of the C&W loss in the published protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Share of correct predictions under one attack, with the number of images it was counted on."""

    attack: str
    percent: float
    images: int

    @property
    def standard_error(self) -> float:
        """Binomial standard error in percentage points."""
        share = self.percent / 100
        return 100 * math.sqrt(share * (1 - share) / self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class _GradientAttack:
    steps: int
    step_share: float  # step size as a share of epsilon
    objective: Callable[[Tensor, int], LogitGradient]


def _cross_entropy(targets: Tensor, num_classes: int) -> LogitGradient:
    return soft_target_ascent(smoothed_targets(targets, num_classes, 0.0, torch.float32))


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


GRADIENT_ATTACKS = {
    "fgsm": _GradientAttack(steps=1, step_share=2.0, objective=_cross_entropy),
    "pgd20": _GradientAttack(steps=20, step_share=0.25, objective=_cross_entropy),
    "pgd100": _GradientAttack(steps=100, step_share=0.25, objective=_cross_entropy),
    "cw": _GradientAttack(steps=100, step_share=0.25, objective=_margin),
}
ATTACKS = ("natural", *GRADIENT_ATTACKS, "aa")
TITLES = {
    "natural": "natural",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100",
    "cw": "C&W",
    "aa": "AutoAttack",
}


def parse_attacks(text: str | Sequence[str]) -> tuple[str, ...]:
    """``"natural,pgd20"`` -> its attacks.

    Raises:
        ValueError: an unknown attack, none, or AutoAttack where it is not installed.
    """
    names = tuple(name.strip() for name in (text.split(",") if isinstance(text, str) else text) if name.strip())
    for name in names:
        if name not in ATTACKS:
            raise unknown_name("attack", name, ATTACKS)
    if not names:
        raise UserError(f"attacks are a comma-separated choice of {', '.join(ATTACKS)}; got {text!r}")
    if "aa" in names and importlib.util.find_spec("pyautoattack") is None:
        raise UserError("AutoAttack is an optional dependency; install it with: pip install 'dat-engine[autoattack]'")
    return names


def evaluate(
    model: nn.Module,
    data: ImageSource,
    attacks: Sequence[str],
    *,
    epsilon: float,
    batch_size: int = 256,
    seed: int = 0,
    on_progress: Callable[[str, int], None] | None = None,
) -> list[Accuracy]:
    """Accuracy of `model` on all of `data` under each attack.

    Args:
        model: a classifier of [0, 1] images in float32 on its device; left as it was found.
        attacks: names out of `ATTACKS`.
        epsilon: L-infinity radius in image units; FGSM steps by 2 epsilon, the others by epsilon / 4.
        seed: of the uniform starts; each attack starts anew from it.
        on_progress: called with the attack's name and the number of images done.
    """
    names = parse_attacks(attacks)
    device = next(model.parameters()).device
    with _evaluation_mode(model):
        return [
            _accuracy(model, name, data, epsilon, batch_size, torch.Generator(device).manual_seed(seed), on_progress)
            for name in names
        ]


def evaluate_together(
    processes: Processes,
    model: nn.Module,
    data: ImageSource,
    attacks: Sequence[str],
    *,
    epsilon: float,
    batch_size: int = 256,
    seed: int = 0,
    on_progress: Callable[[str, int], None] | None = None,
) -> list[Accuracy]:
    """`evaluate` with the images shared out over the run's processes; every process gets the whole result."""
    share = torch.arange(processes.rank, len(data), processes.world_size)
    own = (
        evaluate(
            model,
            data if processes.world_size == 1 else data.select(share),
            attacks,
            epsilon=epsilon,
            batch_size=batch_size,
            seed=seed + processes.rank,
            on_progress=on_progress,
        )
        if len(share)
        else [Accuracy(attack=name, percent=0.0, images=0) for name in parse_attacks(attacks)]
    )
    together = []
    for result in own:
        counts = processes.total({"correct": result.percent / 100 * result.images, "images": result.images})
        percent = 100 * round(counts["correct"]) / counts["images"]
        together.append(Accuracy(attack=result.attack, percent=percent, images=int(counts["images"])))
    return together


@torch.no_grad()
def _accuracy(
    model: nn.Module,
    name: str,
    data: ImageSource,
    epsilon: float,
    batch_size: int,
    generator: torch.Generator,
    on_progress: Callable[[str, int], None] | None,
) -> Accuracy:
    device = next(model.parameters()).device
    correct, done = torch.zeros((), dtype=torch.int64, device=device), 0
    if name == "aa":
        attack = _autoattack(model, epsilon, generator)
    else:
        attack = _gradient_attack(model, name, epsilon, data.num_classes, generator)
    for images, targets in batches(data, batch_size, device):
        adversarial = attack(images, targets)
        correct += (model(adversarial).argmax(dim=1) == targets).sum()
        done += len(targets)
        if on_progress is not None:
            on_progress(name, done)
    return Accuracy(attack=name, percent=100.0 * int(correct) / done, images=done)


Perturb = Callable[[Tensor, Tensor], Tensor]


def _gradient_attack(
    model: nn.Module, name: str, epsilon: float, num_classes: int, generator: torch.Generator
) -> Perturb:
    if name == "natural":
        return lambda images, targets: images
    attack = GRADIENT_ATTACKS[name]
    attack_model = AttackModel(model)
    settings = AttackSettings(epsilon=epsilon, step_size=attack.step_share * epsilon, steps=attack.steps)

    def perturb(images: Tensor, targets: Tensor) -> Tensor:
        start = draw_start(images, settings, generator)
        return pgd_attack(attack_model, images, attack.objective(targets, num_classes), settings, start)

    return perturb


def _autoattack(model: nn.Module, epsilon: float, generator: torch.Generator) -> Perturb:
    from pyautoattack import AutoAttack  # optional; `parse_attacks` has looked

    device = next(model.parameters()).device
    adversary = AutoAttack(
        model, norm="Linf", eps=epsilon, version="standard", device=device, seed=generator.initial_seed()
    )
    adversary.verbose = False

    def perturb(images: Tensor, targets: Tensor) -> Tensor:
        with torch.enable_grad():
            adversarial, _ = adversary.run_standard_evaluation(images, targets, batch_size=len(targets))
        return adversarial

    return perturb


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
