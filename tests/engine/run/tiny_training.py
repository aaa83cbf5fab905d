"""A trainer of a few thousand weights, for tests of what surrounds the step."""

from __future__ import annotations

import json

import torch
from torch import nn

from dat_engine.data import Augmentation, ImageArrays, ResidentLoader
from dat_engine.run.display import Display
from dat_engine.run.plan import TrainingPlan
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.schedule import Schedule
from dat_engine.run.stop import Stop
from dat_engine.run.trainer import Trainer
from dat_engine.step.method import Examples, Method
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep

STEPS_PER_EPOCH = 5


class Noisy(Method):
    """Cross entropy on noisy images; from step `bad_from` on the images are not numbers."""

    def __init__(self, bad_from: int | None = None) -> None:
        super().__init__()
        self.bad_from = bad_from
        self.steps = 0

    def draw_noise(self, batch, generator):
        return {"noise": torch.randn(batch.images.shape, generator=generator)}

    def examples(self, attack_model, batch, noise, progress):
        self.steps += 1
        bad = self.bad_from is not None and self.steps >= self.bad_from
        return Examples(groups=(batch.images * (torch.nan if bad else 1.0) + 0.1 * noise["noise"],))

    def losses(self, joint):
        return {"loss": nn.functional.cross_entropy(joint.logits[0], joint.targets)}


def trainer(
    run: RunDirectory,
    *,
    epochs: int = 3,
    max_steps: int | None = None,
    log_every: int = 2,
    width: int = 4,
    identity: dict | None = None,
    validate=None,
    bad_from: int | None = None,
    step: dict | None = None,
    **plan,
) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 4)
    )
    training = TrainingStep(model, Noisy(bad_from), optimizer=SGDSettings(learning_rate=0.05), seed=1, **(step or {}))
    generator = torch.Generator().manual_seed(0)
    images = ImageArrays(
        images=torch.randint(0, 256, (8 * STEPS_PER_EPOCH, 3, 8, 8), generator=generator, dtype=torch.uint8),
        targets=torch.arange(8 * STEPS_PER_EPOCH) % 4,
        class_names=("a", "b", "c", "d"),
    )
    loader = ResidentLoader(images, batch_size=8, augmentation=Augmentation(padding=1, flip=True), seed=2, device="cpu")
    planned = TrainingPlan(
        epochs=epochs,
        learning_rate=0.05,
        schedule=Schedule(kind="cosine"),
        max_steps=max_steps,
        log_every=log_every,
        **plan,
    )
    return Trainer(training, loader, planned, run, Display(), identity=identity or {"recipe": "x"}, validate=validate)


class StopAfter(Stop):
    """Asks to stop once the trainer has looked `looks` times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def reason(self):
        self.looks -= 1
        return "time limit" if self.looks <= 0 else None


def weights(trained: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.step.model.state_dict().items()}


def rows(run: RunDirectory) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
