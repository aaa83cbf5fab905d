"""Whole steps of the published methods in a size that depends on the device, and what is compared of two of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from dat import models
from dat.methods import METHODS
from dat.methods.task import Task
from dat_engine.data import Batch
from dat_engine.model.precision import Precision
from dat_engine.step.optimizers import SGDSettings, set_learning_rate
from dat_engine.step.training_step import TrainingStep
from tests.kernels.inputs import make_images

CLASSES, RATE = 10, 0.02
FP16_SCALE = 1024.0
"""Low enough that no step overflows where none is meant to."""


def on_gpu(device: torch.device, there, here):
    """The size for a GPU, or that for the CPU, where the code is the same and time is short."""
    return there if device.type == "cuda" else here


def image_shape(device: torch.device) -> tuple[int, int, int]:
    return on_gpu(device, (3, 32, 32), (3, 16, 16))


def training_step(
    device: torch.device,
    *,
    method: str = "dat",
    model: str = "resnet8",
    width: int = 32,
    precision: str = "fp32",
    seed: int = 7,
    **options,
) -> TrainingStep:
    """DAT's or another method's step with its own settings; on the CPU one attack step and a ResNet-8 of width 4."""
    entry = METHODS[method]
    task = Task(num_classes=CLASSES, image_shape=image_shape(device), epsilon=8 / 255)
    torch.manual_seed(0)
    created = entry.create(on_gpu(device, entry.settings, replace(entry.settings, steps=1)), task)
    name, width = on_gpu(device, (model, width), ("resnet8", 4))
    network = models.build(name, num_classes=CLASSES, width=width, branches=entry.branches(entry.settings))
    step = TrainingStep(
        network.to(device),
        created,
        optimizer=SGDSettings(learning_rate=RATE),
        precision=Precision(name=precision, channels_last=True),
        seed=seed,
        **options,
    )
    if precision == "fp16":
        guard = step.guard.state_dict()
        guard["scale"].fill_(FP16_SCALE)
        step.guard.load_state_dict(guard)
    return step


def batches(device: torch.device, count: int, size: int | None = None) -> list[Batch]:
    """1/f images; the second view of each is its mirror image."""
    size = size or on_gpu(device, 32, 4)
    made = []
    for index in range(count):
        images = make_images("one_over_f", (size, *image_shape(device)), seed=index).to(device)
        targets = torch.randint(0, CLASSES, (size,), generator=torch.Generator().manual_seed(index)).to(device)
        indices = torch.arange(size, device=device)
        made.append(Batch(images=images, originals=images.flip(3), targets=targets, indices=indices))
    return made


def on(batch: Batch, device: torch.device) -> Batch:
    given = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return Batch(**{name: None if value is None else value.to(device) for name, value in given.items()})


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


def update_difference(before: dict[str, Tensor], one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """‖Δ one - Δ other‖ / ‖Δ one‖ over all weights."""
    names = [name for name, value in before.items() if _is_weight(name, value)]
    first, second = (
        torch.cat([(state[name] - before[name]).double().flatten() for name in names]) for state in (one, other)
    )
    return float((first - second).norm() / first.norm())


def _is_weight(name: str, value: Tensor) -> bool:
    kept_apart = ("momentum of ", "running_", "num_batches_tracked")
    return value.is_floating_point() and not any(part in name for part in kept_apart)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32: float32 products are float32 products."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
