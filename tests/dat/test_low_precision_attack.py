"""An attack in bf16 or fp16 is still an attack: judged in float32, on a small network trained on the digits.

Two criteria. The loss reached after every step is at least 99 % of what the float32 attack reaches; and the robust
accuracy under it differs by no more than noise. The last tests hold the criteria themselves against attacks and
trainings that are broken on purpose.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dat import models
from dat.losses import dat_attack_targets, kl_divergence, smoothed_targets, soft_target_ascent
from dat.methods.pgd_at import PGDAT
from dat.methods.pgd_at.method import PGDATMethod
from dat.methods.plain import Plain
from dat.methods.plain.method import PlainMethod
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, LogitGradient, pgd_attack
from dat_engine.data import Augmentation, Batch, ResidentLoader, load, unit_range
from dat_engine.model.precision import Precision
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.optimizers import set_learning_rate
from dat_engine.step.training_step import TrainingStep

EPSILON, STEPS, EPOCHS, RATE = 0.1, 5, 6, 0.2
BETA, SMOOTHING = 15.0, 0.5
TASK = Task(num_classes=10, image_shape=(1, 16, 16), epsilon=EPSILON)
ONE_STEP = AttackSettings(epsilon=EPSILON, step_size=EPSILON / 4, steps=1)
LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
OBJECTIVES = pytest.mark.parametrize("objective", ["cross entropy", "L_AE"])


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network in eval mode and what it is attacked on."""

    model: nn.Module
    images: Tensor
    targets: Tensor

    @torch.no_grad()
    def loss(self, objective: str, adversarial: Tensor) -> Tensor:
        """Loss of every image, in float32: what the attack maximises."""
        logits = self.model(adversarial)
        if objective == "cross entropy":
            return functional.cross_entropy(logits, self.targets)
        smoothed = functional.cross_entropy(logits, self.targets, label_smoothing=SMOOTHING)
        return smoothed + BETA * kl_divergence(self.model(self.images), logits)

    @torch.no_grad()
    def correct(self, adversarial: Tensor) -> Tensor:
        return self.model(adversarial).argmax(dim=1) == self.targets


def train(method: object, precision: str = "fp32") -> nn.Module:
    digits = load("digits", root=None, split="train", download=False)
    loader = ResidentLoader(
        digits, batch_size=128, augmentation=Augmentation(padding=1, flip=False), seed=0, device="cpu"
    )
    torch.manual_seed(0)
    model = models.build("resnet8", num_classes=10, width=8, in_channels=1, branches=("base",))
    step = TrainingStep(
        model, method, optimizer=SGDSettings(learning_rate=RATE), precision=Precision(name=precision), seed=0
    )
    batches: list[Batch] = [batch for epoch in range(EPOCHS) for batch in loader.epoch(epoch)]
    for index, batch in enumerate(batches):
        done = index / len(batches)
        set_learning_rate(step.optimizer, RATE * max(0.01, min(1.0, 3 * done, 1.5 * (1 - done))))
        step(batch)
    return model.eval()


def pgd_at() -> PGDAT:
    return PGDATMethod(PGDAT(steps=3, step_size=EPSILON / 2), TASK)


def subject_of(model: nn.Module) -> Subject:
    digits = load("digits", root=None, split="test", download=False)
    return Subject(model=model, images=unit_range(digits.images), targets=digits.targets)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of(train(pgd_at()))


def ascent(objective: str, attack_model: AttackModel, subject: Subject) -> LogitGradient:
    if objective == "cross entropy":
        return soft_target_ascent(smoothed_targets(subject.targets, 10, 0.0, torch.float32))
    with torch.no_grad():
        clean = attack_model.logits(subject.images)
    return soft_target_ascent(dat_attack_targets(clean, subject.targets, beta=BETA, label_smoothing=SMOOTHING))


def trajectory(subject: Subject, objective: str, attack_model: AttackModel, gradient: LogitGradient | None = None):
    """Adversarial images after every step; the start is DAT's for its loss, uniform in the box for cross entropy."""
    noise = torch.Generator().manual_seed(1)
    if objective == "cross entropy":
        start = (2 * torch.rand(subject.images.shape, generator=noise) - 1) * EPSILON
    else:
        start = 0.001 * torch.randn(subject.images.shape, generator=noise)
    gradient = gradient or ascent(objective, attack_model, subject)
    adversarial, visited = subject.images + start, []
    for _ in range(STEPS):
        adversarial = pgd_attack(attack_model, subject.images, gradient, ONE_STEP, adversarial - subject.images)
        visited.append(adversarial)
    return visited


def shares_of_loss(subject: Subject, objective: str, attack: list[Tensor], reference: list[Tensor]) -> list[float]:
    """Loss reached after every step, as a share of what the reference attack reaches."""
    pairs = zip(attack, reference, strict=True)
    return [float(subject.loss(objective, one) / subject.loss(objective, other)) for one, other in pairs]


def differs_by_noise(one: Tensor, other: Tensor) -> bool:
    """Whether two attacks on the same images leave equally many correct: of the images on which they disagree, each
    attack wins half, up to three standard deviations."""
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return abs(wins - losses) <= 3 * math.sqrt(max(wins + losses, 1))


@OBJECTIVES
@LOW
def test_the_loss_reached_after_every_step(subject, dtype, objective):
    reference = trajectory(subject, objective, AttackModel(subject.model))
    attack = trajectory(subject, objective, AttackModel(subject.model, dtype=dtype))
    assert subject.loss(objective, reference[-1]) > 1.3 * subject.loss(objective, reference[0])  # there is a way to go
    assert min(shares_of_loss(subject, objective, attack, reference)) >= 0.99


@OBJECTIVES
@LOW
def test_the_robust_accuracy_under_it(subject, dtype, objective):
    reference = subject.correct(trajectory(subject, objective, AttackModel(subject.model))[-1])
    attack = subject.correct(trajectory(subject, objective, AttackModel(subject.model, dtype=dtype))[-1])
    natural = subject.correct(subject.images)
    assert natural.float().mean() > reference.float().mean() + 0.2
    assert differs_by_noise(attack, reference)


@OBJECTIVES
@pytest.mark.parametrize("fault", ["weights of another network", "no gradient", "descends"])
def test_the_criteria_see_a_broken_attack(subject, fault, objective):
    reference = trajectory(subject, objective, AttackModel(subject.model))
    gradient = None
    attack_model = AttackModel(subject.model, dtype=torch.bfloat16)
    if fault == "weights of another network":
        torch.manual_seed(1)
        attack_model = AttackModel(models.build("resnet8", num_classes=10, width=8, in_channels=1).eval())
    elif fault == "no gradient":
        gradient = torch.zeros_like
    else:
        right = ascent(objective, attack_model, subject)
        gradient = lambda logits: -right(logits)  # noqa: E731
    attack = trajectory(subject, objective, attack_model, gradient)
    assert min(shares_of_loss(subject, objective, attack, reference)) < 0.9
    assert not differs_by_noise(subject.correct(attack[-1]), subject.correct(reference[-1]))


def robust_accuracy(model: nn.Module) -> float:
    trained = subject_of(model)
    adversarial = trajectory(trained, "cross entropy", AttackModel(model))[-1]
    return float(trained.correct(adversarial).float().mean())


def test_training_on_bf16_attacks_makes_as_robust_a_network(subject):
    """Within three standard errors of the difference of two such measurements; plain training stays below that."""
    expected = robust_accuracy(subject.model)
    tolerance = 3 * math.sqrt(2 * expected * (1 - expected) / len(subject.targets))
    assert abs(robust_accuracy(train(pgd_at(), "bf16")) - expected) < tolerance
    assert robust_accuracy(train(PlainMethod(Plain(), TASK))) < expected - tolerance
