"""Run a trainer until its plan or somebody ends it; errors that are the run's own say how to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from dat.evaluation import evaluate
from dat.evaluation.images import ImagesAndLabels
from dat.training.options import DisplayStyle
from dat.training.resumption import RATE, flag_of
from dat_engine.attack.attack_model import AttackModel
from dat_engine.data import DataError, ImageArrays, ImageFiles
from dat_engine.distributed import Processes, ProcessesError
from dat_engine.errors import RunFailedError, UserError
from dat_engine.model.branches import branch_names
from dat_engine.run.display import Display, open_display
from dat_engine.run.stop import Stop
from dat_engine.run.trainer import Ending, Trainer, Validate
from dat_engine.spoken_warnings import spoken_by
from dat_engine.step.guard import NonFiniteError
from dat_engine.step.training_step import TrainingStep


def fit(trainer: Trainer, stop: Stop, *, resume_by: str) -> Ending:
    """Train to the end of the plan, or until `stop` has a reason.

    Args:
        resume_by: what goes on with the run, as a person types it.

    Raises:
        ProcessesError: another process of the run has died.
        RunFailedError: the disk or the device's memory is full.
        NonFiniteError: too many steps in a row were skipped.
        DataError: a damaged file, found when its turn came.
    """
    try:
        return trainer.train(stop)
    except ProcessesError as error:
        raise ProcessesError(f"{error}, which has died; go on from the newest checkpoint: {resume_by}") from error
    except NonFiniteError as error:
        lower = f"{flag_of(RATE, '')} {trainer.plan.learning_rate / 4:g}"
        raise NonFiniteError(
            f"{error}; the newest checkpoint holds them: go on at a lower rate with: {resume_by} {lower}"
        ) from error
    except torch.OutOfMemoryError as error:
        raise RunFailedError(
            f"{trainer.step.device} has too little memory for this step; use a smaller --batch-size or --model.width"
        ) from error
    except DataError:
        raise
    except UserError as error:  # a full disk: the input was right, the run failed
        raise RunFailedError(str(error)) from error


def say_stopped(display: Display, ending: Ending, done: str, resume_by: str) -> None:
    """Say who stopped a run where, and how it goes on."""
    by = "a signal" if ending == "signal" else "the time limit"
    display.note(f"stopped by {by} {done}; go on with: {resume_by}")


def validation_by(
    data: ImagesAndLabels | None,
    step: TrainingStep,
    *,
    epsilon: float,
    batch_size: int,
    seed: int,
    processes: Processes,
    stop: Stop,
) -> Validate | None:
    """What maps a model to its accuracies on `data` after every epoch, looking at `stop` between batches; None without data.

    The attack follows a copy of the model in the step's precision, compiled where the step is; what is counted are the float32
    predictions of the model itself.
    """
    if data is None:
        return None
    if step.compiled and isinstance(data, ImageArrays | ImageFiles):
        batch_size = _equal_batches(len(data) // processes.world_size, batch_size)
    copies: list[tuple[nn.Module, AttackModel | None]] = []  # of the network that was validated last

    def validate(model: nn.Module) -> Mapping[str, float]:
        if not copies or copies[0][0] is not model:
            copies[:] = [(model, step.attack_model_of(model, ((branch_names(model)[0],),), compiled=True))]
        return evaluate(
            model,
            data,
            ("natural", "pgd20"),
            epsilon=epsilon,
            batch_size=batch_size,
            seed=seed,
            processes=processes,
            stop=stop,
            attack_model=copies[0][1],
        )

    return validate


def _equal_batches(count: int, at_most: int) -> int:
    """Size of the batches that share `count` images out evenly: each size is compiled for itself."""
    return math.ceil(count / math.ceil(count / at_most)) if count else at_most


def display_of(style: DisplayStyle, processes: Processes) -> Display:
    """The display of a run, of which the main process alone has one that speaks."""
    return open_display(style if processes.is_main else "silent")


def spoken_warnings(style: DisplayStyle, processes: Processes, display: Display) -> AbstractContextManager[None]:
    """Warnings go through the display where there is one that speaks; else they stay on standard error."""
    if not processes.is_main or style == "silent":
        return nullcontext()
    return spoken_by(display.warn)
