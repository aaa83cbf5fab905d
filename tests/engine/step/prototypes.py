"""Small forms of four published methods, each as its author would write it for this engine: what the extension points carry.

They keep the structure of the originals (losses, views, players, schedules) and leave out their tuning.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dat.losses import smoothed_targets, soft_target_ascent
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, pgd_attack
from dat_engine.data import Batch
from dat_engine.model.branches import convert_batchnorm
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.players import Player
from dat_engine.step.progress import TrainingProgress

SHAPE, CLASSES, EPSILON = (1, 8, 8), 4, 0.1


def batch(seed: int = 0, size: int = 8, extra_views: int = 0, device: torch.device | str = "cpu") -> Batch:
    """Images whose brighter quadrant is their class, and views that are shifted by a pixel each."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(size) % CLASSES
    images = 0.4 * torch.rand(size, *SHAPE, generator=generator) + 0.2
    for image, target in zip(images, targets.tolist(), strict=True):
        row, column = divmod(target, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.3
    images, targets = images.to(device), targets.to(device)
    views = torch.stack([images.roll(1 + shift, dims=3) for shift in range(extra_views)]) if extra_views else None
    return Batch(
        images=images,
        originals=images.flip(3),
        targets=targets,
        indices=torch.arange(size).to(device),
        extra_views=views,
    )


def classifier(*branches: str, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, CLASSES),
    )
    convert_batchnorm(model, branches or ("base",))
    return model


class PrototypeMethod(Method):
    """What the prototypes share: cross-entropy PGD of three steps from a start drawn in units of epsilon."""

    attack_layouts = (("base",),)

    def __init__(self) -> None:
        self.attack = AttackSettings(epsilon=EPSILON, step_size=EPSILON / 2, steps=3)

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        return {"start": 2 * torch.rand(batch.images.shape, generator=generator, device=batch.images.device) - 1}

    def ascent(self, targets: Tensor):
        return soft_target_ascent(smoothed_targets(targets, CLASSES, 0.0, torch.float32))

    def attacked(self, attack_model: AttackModel | None, batch: Batch, noise: Noise) -> Tensor:
        assert attack_model is not None
        start = EPSILON * noise["start"]
        return pgd_attack(attack_model, batch.images, self.ascent(batch.targets), self.attack, start)

    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        return Examples(groups=(self.attacked(attack_model, batch, noise),))

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(joint.logits[0], joint.targets)}


class MART(PrototypeMethod):
    """Wang et al., ICLR 2020: a boosted cross entropy, and a KL term weighed by how wrong the clean prediction is."""

    layout = ("base", "base")
    adversarial_group = 1
    beta = 5.0

    def examples(self, attack_model, batch, noise, progress):
        return Examples(groups=(batch.images, self.attacked(attack_model, batch, noise)))

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        clean, adversarial = (logits.softmax(dim=1) for logits in joint.logits)
        is_target = functional.one_hot(joint.targets, CLASSES).bool()
        runner_up = adversarial.masked_fill(is_target, 0.0).amax(dim=1)
        boosted = -(adversarial * is_target).sum(dim=1).log() - (1 - runner_up).log()
        divergence = (clean * (clean.log() - adversarial.log())).sum(dim=1)
        weighted = divergence * (1 - (clean * is_target).sum(dim=1))
        return {"loss": (boosted + self.beta * weighted).mean(), "boosted": boosted.mean(), "weighted": weighted.mean()}


class DAJAT(PrototypeMethod):
    """Addepalli et al., NeurIPS 2022: further augmented views with BatchNorm of their own, JS divergence, growing epsilon."""

    layout = ("base", "aug", "aug")
    attack_layouts = (("base", "aug", "aug"),)
    extra_views = 2
    adversarial_group = 0

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        shape = (3 * batch.images.shape[0], *batch.images.shape[1:])
        return {"start": 2 * torch.rand(shape, generator=generator, device=batch.images.device) - 1}

    def examples(self, attack_model, batch, noise, progress):
        radius = EPSILON * (0.25 + 0.75 * progress.fraction)
        views = torch.cat([batch.images, *batch.extra_views[: self.extra_views]])
        adversarial = pgd_attack(
            attack_model,
            views,
            self.ascent(batch.targets.repeat(3)),
            replace(self.attack, epsilon=radius, step_size=radius / 2),
            radius * noise["start"],
            layout=self.layout,
        )
        return Examples(groups=tuple(adversarial.chunk(3)), extras={"radius": radius})

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        cross_entropy = torch.stack([functional.cross_entropy(logits, joint.targets) for logits in joint.logits]).mean()
        probabilities = [logits.softmax(dim=1) for logits in joint.logits]
        log_mean = torch.stack(probabilities).mean(dim=0).log()
        js = torch.stack([(p * (p.log() - log_mean)).sum(dim=1).mean() for p in probabilities]).mean()
        return {"loss": cross_entropy + js, "cross_entropy": cross_entropy, "js": js, "radius": joint.extras["radius"]}


class LASAT(PrototypeMethod):
    """Jia et al., CVPR 2022: a policy picks every image's attack; REINFORCE makes it pick what the classifier fears."""

    update = "alternating"
    choices = (0.5, 1.0, 1.5)
    every = 3

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.policy = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, len(self.choices)))
        self.choose: nn.Module = self.policy

    def players(self, model: nn.Module) -> tuple[Player, ...]:
        policy = Player(
            name="policy",
            network=self.policy,
            objective="reward",
            direction="ascend",
            optimizer=SGDSettings(learning_rate=0.5, momentum=0.0, weight_decay=0.0),
            every=self.every,
            use=self._choose_by,
        )
        return (Player(name="model", network=model), policy)

    def _choose_by(self, forward: nn.Module) -> None:
        self.choose = forward

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        noise = dict(super().draw_noise(batch, generator))
        noise["choice"] = torch.rand(len(batch.images), generator=generator, device=batch.images.device)
        return noise

    def examples(self, attack_model, batch, noise, progress):
        log_probabilities = self.choose(batch.images).log_softmax(dim=1)
        cumulative = log_probabilities.detach().exp().cumsum(dim=1)
        chosen = (noise["choice"][:, None] > cumulative).sum(dim=1).clamp_max(len(self.choices) - 1)
        radius = EPSILON * sum(choice * (chosen == index) for index, choice in enumerate(self.choices))
        adversarial = pgd_attack(
            attack_model,
            batch.images,
            self.ascent(batch.targets),
            replace(self.attack, epsilon=radius, step_size=radius / 2),
            radius[:, None, None, None] * noise["start"],
        )
        log_probability = log_probabilities.gather(1, chosen[:, None])[:, 0]
        return Examples(groups=(adversarial,), extras={"log_probability": log_probability, "radius": radius})

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        each = functional.cross_entropy(joint.logits[0], joint.targets, reduction="none")
        return {"loss": each.mean(), "reward": (each.detach() * joint.extras["log_probability"]).mean()}


class Purifier(nn.Module):
    """Adds a correction to the image, with BatchNorm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.5 * self.layers(images)


class AToP(PrototypeMethod):
    """Lin et al., ICLR 2024: the classifier is given and frozen, a purifier in front of it is trained under attacks on both."""

    def players(self, model: nn.Module) -> tuple[Player, ...]:
        purifier, behind = model
        return (
            Player(name="purifier", network=purifier),
            Player(name="classifier", network=behind, frozen=True),
        )


def purified_classifier() -> nn.Sequential:
    """A classifier that was trained on clean images, with a purifier in front of it."""
    trained = classifier(seed=1)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.3)
    for index in range(20):
        optimizer.zero_grad()
        functional.cross_entropy(trained(batch(index).images), batch(index).targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    torch.manual_seed(3)
    return nn.Sequential(Purifier(), trained)
