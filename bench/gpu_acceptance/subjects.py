"""What step_times compares: this engine's steps in their ways of running, and the eager baselines as published code runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from bench.gpu_acceptance.setting import Setting
from dat import models
from dat.methods import METHODS
from dat.methods.task import Task
from dat.profiling.baselines.eager_dat import EagerDAT
from dat.profiling.baselines.eager_pgd_at import EagerPGDAT
from dat_engine.data import Augmentation, Batch, ImageArrays, Loader, ResidentLoader
from dat_engine.model.precision import Precision
from dat_engine.profile.timing import Subject, endless
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizers import SGDSettings
from dat_engine.step.switches import Switches
from dat_engine.step.training_step import TrainingStep

BLOCKS = (2, 2, 2, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way of running one of the engine's methods."""

    method: str
    execution: str = "graphed"
    """eager, compiled or graphed."""
    branching: str = "grouped"
    precision: str = "bf16"
    switches: Switches = field(default_factory=Switches)
    implementation: str = "torch"
    """Of the optimizer: torch or apex."""

    def __str__(self) -> str:
        name = {"dat": "DAT", "pgd-at": "PGD-AT-10"}[self.method]
        branching = f", {self.branching}" if self.method == "dat" else ""
        apex = ", apex" if self.implementation == "apex" else ""
        return f"{name}, {self.execution}, {self.precision}{branching}{apex}{''.join(self._switched())}"

    def _switched(self) -> Iterator[str]:
        """What is set otherwise than it is by default."""
        usual = Switches()
        for switch in fields(Switches):
            if getattr(self.switches, switch.name) != getattr(usual, switch.name):
                yield f", {'without ' if getattr(usual, switch.name) else ''}{switch.name.replace('_', ' ')}"


DAT_GROUPED, DAT_FOLDED = Way(method="dat"), Way(method="dat", branching="folded")
PGD_AT = Way(method="pgd-at")
WAYS = (
    DAT_GROUPED,
    DAT_FOLDED,
    PGD_AT,
    Way(method="dat", execution="compiled"),
    Way(method="dat", execution="eager"),
)
SWITCHED = (
    Way(method="dat", switches=Switches(cudnn_benchmark=False)),
    Way(method="dat", switches=Switches(compile_players=True)),
    Way(method="dat", switches=Switches(compile_players=True, tf32=True)),
    Way(method="dat", switches=Switches(compile_players=True, bf16_players=True)),
    Way(method="dat", switches=Switches(padded_stem=True)),
    Way(method="dat", branching="folded", switches=Switches(fused_epilogues=True)),
    Way(method="dat", switches=Switches(dependent_launch=True)),
)
APEX = Way(method="dat", execution="compiled", implementation="apex")
AUGMENTATION = Augmentation(padding=4, flip=True)
EAGER_FP32 = "eager PGD-AT-10, float32"
EAGER_TF32 = "eager PGD-AT-10, as published code runs (TF32)"
EAGER_DAT_TF32 = "eager DAT, 55F, as published code runs (TF32)"


def loader_of(arrays: ImageArrays, setting: Setting) -> Loader:
    """The recipe's: batch 128, crops out of 4 pixels of padding, flips."""
    return ResidentLoader(
        arrays,
        batch_size=setting.pick(128, 4),
        augmentation=AUGMENTATION,
        seed=0,
        device=setting.device,
    )


def training_step(way: Way, arrays: ImageArrays, setting: Setting, *, update: str | None = None) -> TrainingStep:
    """ResNet-18 (a narrow ResNet-8 in a rehearsal) with the method's own settings; `update` None: its own way too."""
    entry = METHODS[way.method]
    task = Task(
        num_classes=arrays.num_classes,
        image_shape=arrays.image_shape,
        epsilon=8 / 255,
        augmentation=AUGMENTATION,
    )
    torch.manual_seed(0)
    method = entry.create(entry.settings, task)
    name, width = setting.pick(("resnet18", 64), ("resnet8", 4))
    branches = entry.branches(entry.settings)
    model = models.build(name, num_classes=arrays.num_classes, width=width, branches=branches)
    return TrainingStep(
        model.to(setting.device),
        method,
        # the time does not depend on the rate; at the published one made-up labels could let the loss diverge
        optimizer=SGDSettings(learning_rate=0.01, implementation=way.implementation),  # type: ignore[arg-type]
        precision=Precision(name=way.precision, channels_last=True),
        branching=way.branching,  # type: ignore[arg-type]
        update=update,  # type: ignore[arg-type]
        compiled=way.execution != "eager",
        switches=way.switches,
    )


def engine_contender(way: Way, arrays: ImageArrays, setting: Setting) -> Subject:
    """Warm: compiled and captured where that is its way."""
    loader = loader_of(arrays, setting)
    step = training_step(way, arrays, setting)
    run: Callable[[Batch], object] = GraphedStep(step) if way.execution == "graphed" else step
    batches = endless(loader, setting.device)
    for _ in range(2):
        run(next(batches))
    if isinstance(run, GraphedStep) and not run.captured:
        raise RuntimeError(f"{way} was not captured, so its time would be that of the uncaptured step")
    return Subject(name=str(way), run=run, step=step, batches=batches)


def eager_contenders(arrays: ImageArrays, setting: Setting) -> list[Subject]:
    """PGD-AT-10 with and without TF32 in its convolutions (torch's default is with), and DAT at 55F."""
    options: dict[str, Any] = {
        "width": setting.pick(64, 4),
        "num_classes": arrays.num_classes,
        "device": setting.device,
        "image_shape": arrays.image_shape,
        "blocks": setting.pick(BLOCKS, (1, 1, 1)),
    }
    made = []
    for name, kind, tf32 in (
        (EAGER_FP32, EagerPGDAT, False),
        (EAGER_TF32, EagerPGDAT, True),
        (EAGER_DAT_TF32, EagerDAT, True),
    ):
        run = _with_tf32(kind(**options).step, tf32)
        batches = endless(loader_of(arrays, setting), setting.device)
        for _ in range(2):
            run(next(batches))
        made.append(Subject(name=name, run=run, step=run, batches=batches))
    return made


def _with_tf32(step: Callable[[Tensor, Tensor, Tensor], object], tf32: bool) -> Callable[[Batch], object]:
    def run(batch: Batch) -> object:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = tf32
        try:
            return step(batch.images, batch.originals, batch.targets)
        finally:
            torch.backends.cudnn.allow_tf32 = before

    return run
