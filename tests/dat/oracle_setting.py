"""One small float64 setting that the engine and the oracle both run: the same weights, images and random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dat import AmplitudeGenerator, models
from dat.methods.task import Task
from dat_engine.data import Batch
from dat_engine.model.precision import Precision
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from tests.oracle.networks import random_generator_state, random_resnet_state

SIZE, CLASSES, WIDTH = 5, 10, 4
SHAPE = (3, 16, 16)
FP64 = Precision(name="fp64")
OPTIMIZER = SGDSettings(learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
TASK = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=8 / 255)


@dataclass(frozen=True, kw_only=True)
class Setting:
    model_state: dict[str, Tensor]
    generator_state: dict[str, Tensor]
    batch: Batch
    z: Tensor
    lam: Tensor
    start_noise: Tensor
    mix_start_noise: Tensor
    mix_offsets: Tensor
    mix_flip: Tensor


def setting(seed: int = 0) -> Setting:
    generator = torch.Generator().manual_seed(seed)

    def smooth_images() -> Tensor:
        coarse = torch.rand(SIZE, 3, 4, 4, generator=generator, dtype=torch.float64)
        fine = torch.rand(SIZE, *SHAPE, generator=generator, dtype=torch.float64)
        return (0.8 * nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear") + 0.2 * fine).clamp(0, 1)

    return Setting(
        model_state=random_resnet_state(width=WIDTH, num_classes=CLASSES, blocks=(2, 2, 2, 2), seed=seed),
        generator_state=random_generator_state(num_classes=CLASSES, shape=SHAPE, seed=seed),
        batch=Batch(
            images=smooth_images(),
            originals=smooth_images(),
            targets=torch.randint(0, CLASSES, (SIZE,), generator=generator),
            indices=torch.arange(SIZE),
        ),
        z=torch.randn(SIZE, 100, generator=generator, dtype=torch.float64),
        lam=torch.rand(SIZE, generator=generator, dtype=torch.float64),
        start_noise=torch.randn(SIZE, *SHAPE, generator=generator, dtype=torch.float64),
        mix_start_noise=torch.randn(SIZE, *SHAPE, generator=generator, dtype=torch.float64),
        mix_offsets=torch.randint(-3, 4, (SIZE, 2), generator=generator, dtype=torch.int32),
        mix_flip=torch.rand(SIZE, generator=generator) < 0.5,
    )


def model_of(values: Setting, branches: tuple[str, ...] = ("base", "mix")) -> nn.Module:
    model = models.build("resnet18", num_classes=CLASSES, width=WIDTH, branches=branches).double()
    models.load_reference_state_dict(model, values.model_state)
    return model


def generator_of(values: Setting) -> AmplitudeGenerator:
    generator = AmplitudeGenerator(CLASSES, SHAPE).double()
    generator.load_reference_state_dict(values.generator_state)
    return generator


def training_step(model: nn.Module, method: object, update: str = "joint", **options: object) -> TrainingStep:
    return TrainingStep(model, method, **{"optimizer": OPTIMIZER, "precision": FP64, "update": update, **options})


def reference_names(model: nn.Module) -> dict[str, str]:
    """Own name -> the authors' name, found by loading a checkpoint whose every tensor is a distinct constant."""
    from tests.oracle.networks import random_resnet_state

    theirs = random_resnet_state(width=WIDTH, num_classes=CLASSES, blocks=(2, 2, 2, 2), seed=0)
    names = list(theirs)
    coded = {name: torch.full_like(theirs[name], float(index)) for index, name in enumerate(names)}
    probe = models.build("resnet18", num_classes=CLASSES, width=WIDTH).double()
    models.load_reference_state_dict(probe, coded)
    return {own: names[int(tensor.flatten()[0])] for own, tensor in probe.state_dict().items()}
