"""What `dat profile` compares: the engine's methods on a recipe, and the eager baselines on the same data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from dat.profiling.baselines.eager_dat import EagerDAT
from dat.profiling.baselines.eager_pgd_at import EagerPGDAT
from dat.recipes import Recipe
from dat.training.build import build_model, build_step, execution, executor
from dat.training.data import TrainingData
from dat.training.title import weights_title
from dat_engine.data import Batch
from dat_engine.errors import UserError
from dat_engine.model.precision import Precision
from dat_engine.profile.timing import Subject, endless, warm_up, with_peak_memory

REFERENCE = "pgd-at"
"""The method that all others are compared with."""

EAGER_MODELS = {"resnet18": (64, (2, 2, 2, 2)), "resnet8": (16, (1, 1, 1))}
"""Models that the baselines can build: width of the first stage, blocks of each stage."""

LoadData = Callable[[Recipe], TrainingData]
StepFunction = Callable[[Batch], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmSubject:
    """A subject that is warm, and what is known of it before it is timed."""

    subject: Subject
    precision: Precision
    execution: str
    weights: Mapping[str, object]
    """awp, ema and swa, those that the recipe switches on."""
    batch_size: int
    steps_per_epoch: int
    warm_step_seconds: float
    peak_memory: int | None
    """Bytes of device memory held while building, capturing and running it, its data set included; None on a CPU."""


def engine_subject(recipe: Recipe, load: LoadData, device: torch.device) -> WarmSubject:
    """The recipe's method in this engine, warm. `load` opens a recipe's data; every subject has its own loader."""

    def create(data: TrainingData) -> tuple[StepFunction, StepFunction]:
        model = build_model(recipe, data.train.num_classes, data.train.image_shape).to(device)
        step = build_step(recipe, model, data.method)
        return executor(recipe, step), step

    return _subject(
        recipe.method,
        recipe,
        load,
        device,
        create,
        precision=recipe.precision.on(device),
        execution=execution(recipe, device),
        weights=weights_title(recipe),
    )


def check_eager_baselines(recipe: Recipe) -> None:
    """Raises UserError where the recipe's model has no eager baseline."""
    if recipe.model.name not in EAGER_MODELS:
        raise UserError(
            f"the eager baselines exist for {' and '.join(EAGER_MODELS)}, not for {recipe.model.name}; leave --baseline "
            "out, or choose one of these with --model.name"
        )


def eager_subjects(recipe: Recipe, load: LoadData, device: torch.device) -> list[WarmSubject]:
    """DAT (55F) and PGD-AT-10 (23F) the way published code runs them: float32, eager, nothing shared or folded.

    Their settings are the published ones whatever the recipe says; model, batch size and data are the recipe's.

    Raises:
        UserError: the recipe's model has no eager baseline.
    """
    check_eager_baselines(recipe)
    width, blocks = EAGER_MODELS[recipe.model.name]

    def entry(name: str, baseline_type: type[EagerDAT] | type[EagerPGDAT]) -> WarmSubject:
        def create(data: TrainingData) -> tuple[StepFunction, StepFunction]:
            baseline = baseline_type(
                width=recipe.model.width or width,
                num_classes=data.train.num_classes,
                device=device,
                image_shape=data.train.image_shape,
                blocks=blocks,
            )

            def step(batch: Batch) -> object:
                return baseline.step(batch.images, batch.originals, batch.targets)

            return step, step

        return _subject(
            name, recipe, load, device, create, precision=Precision(name="fp32"), execution="eager", weights={}
        )

    return [entry("eager dat", EagerDAT), entry("eager pgd-at", EagerPGDAT)]


def _subject(
    name: str,
    recipe: Recipe,
    load: LoadData,
    device: torch.device,
    create: Callable[[TrainingData], tuple[StepFunction, StepFunction]],
    *,
    precision: Precision,
    execution: str,
    weights: Mapping[str, object],
) -> WarmSubject:
    def build() -> tuple[Subject, int, float]:
        data = load(recipe)
        run, step = create(data)
        subject = Subject(name=name, run=run, step=step, batches=endless(data.loader, device))
        return subject, data.loader.steps_per_epoch, warm_up(subject, device)

    (subject, steps_per_epoch, seconds), memory = with_peak_memory(build, device)
    return WarmSubject(
        subject=subject,
        precision=precision,
        execution=execution,
        weights=weights,
        batch_size=recipe.batch_size,
        steps_per_epoch=steps_per_epoch,
        warm_step_seconds=seconds,
        peak_memory=memory,
    )
