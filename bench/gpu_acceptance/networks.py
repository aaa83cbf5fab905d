"""The small networks of the gates, and what is compared of two training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.gpu_acceptance.inputs import make_images
from bench.gpu_acceptance.setting import Setting
from dat import models
from dat.methods import METHODS
from dat.methods.task import Task
from dat_engine.data import Batch
from dat_engine.model.precision import Precision
from dat_engine.step.optimizers import SGDSettings, set_learning_rate
from dat_engine.step.training_step import TrainingStep

CLASSES = 10
RATE = 0.02
FP16_SCALE = 1024.0
"""Low enough that no step overflows where none is meant to."""


def image_shape(setting: Setting) -> tuple[int, int, int]:
    return setting.pick((3, 32, 32), (3, 16, 16))


def training_step(
    setting: Setting, *, method: str = "dat", precision: str = "fp32", seed: int = 7, **options: Any
) -> TrainingStep:
    """A ResNet-8 step with DAT's or another method's own settings (fewer attack steps in a rehearsal)."""
    shape = image_shape(setting)
    task = Task(num_classes=CLASSES, image_shape=shape, epsilon=8 / 255)
    entry = METHODS[method]
    settings = replace(entry.settings, steps=1) if setting.rehearsal else entry.settings
    torch.manual_seed(0)
    created = entry.create(settings, task)
    branches = entry.branches(entry.settings)
    model = models.build("resnet8", num_classes=CLASSES, width=setting.pick(32, 4), branches=branches)
    step = TrainingStep(
        model.to(setting.device),
        created,
        optimizer=SGDSettings(learning_rate=RATE),
        precision=Precision(name=precision, channels_last=True),
        seed=seed,
        **options,
    )
    guard = step.guard.state_dict()
    if precision == "fp16":
        guard["scale"].fill_(FP16_SCALE)
        step.guard.load_state_dict(guard)
    return step


def batches(setting: Setting, count: int, size: int | None = None) -> list[Batch]:
    """1/f images; the second view of each is its mirror image."""
    size = size or setting.pick(32, 4)
    made = []
    for index in range(count):
        images = make_images("one_over_f", (size, *image_shape(setting)), seed=index).to(setting.device)
        generator = torch.Generator().manual_seed(index)
        targets = torch.randint(0, CLASSES, (size,), generator=generator).to(setting.device)
        indices = torch.arange(size, device=setting.device)
        made.append(Batch(images=images, originals=images.flip(3), targets=targets, indices=indices))
    return made


def train(
    step: TrainingStep, execute: Callable[[Batch], dict[str, Tensor]], given: Sequence[Batch], rates: Sequence[float]
) -> list[float]:
    """Losses of one step per batch, each at its own learning rate."""
    losses = []
    for batch, rate in zip(given, rates, strict=True):
        set_learning_rate(step.optimizer, rate)
        losses.append(float(execute(batch)["loss"]))
    return losses


def state_of(step: TrainingStep) -> dict[str, Tensor]:
    """Copies of everything that a step changes, by name: weights, statistics, momenta of both players, averages."""
    tensors = dict(step.model.state_dict())
    for name, average in step.averages.by_name.items():
        tensors |= {f"{name}.{key}": value for key, value in average.network.state_dict().items()}
    for seat in step.other_seats:
        tensors |= {f"psi.{name}": value for name, value in seat.player.network.state_dict().items()}
    for seat in (*step.own_seats, *step.other_seats):
        for index, parameter in enumerate(seat.parameters):
            tensors[f"momentum of {seat.player.name} {index}"] = seat.optimizer.state[parameter]["momentum_buffer"]
    return {name: value.clone() for name, value in tensors.items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of the tensors whose bits differ; counters of BatchNorm, which nothing depends on, are passed over."""
    return [
        name
        for name, value in one.items()
        if not name.endswith("num_batches_tracked") and not torch.equal(value, other[name])
    ]


def update_difference(
    before: dict[str, Tensor], one: dict[str, Tensor], other: dict[str, Tensor], prefix: str = ""
) -> float:
    """‖Δ one - Δ other‖ / ‖Δ one‖ over all weights whose name begins with `prefix`."""
    names = [name for name, value in before.items() if name.startswith(prefix) and _is_weight(name, value)]
    first, second = (
        torch.cat([(state[name] - before[name]).double().flatten() for name in names]) for state in (one, other)
    )
    return float((first - second).norm() / first.norm())


def _is_weight(name: str, value: Tensor) -> bool:
    kept_apart = ("momentum of ", "running_", "num_batches_tracked")
    return value.is_floating_point() and not any(part in name for part in kept_apart)


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32: float32 products are float32 products."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def deterministic() -> None:
    """cuDNN's deterministic algorithms, and no choice by timing, for the rest of the process."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def parameters_of(step: TrainingStep) -> list[nn.Parameter]:
    return [parameter for seat in (*step.own_seats, *step.other_seats) for parameter in seat.parameters]
