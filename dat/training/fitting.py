"""Run a trainer until its plan or somebody ends it; errors that are the run's own say how to go on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dat.cli.spoken_warnings import spoken_by
from dat.evaluation import evaluate
from dat.evaluation.images import ImagesAndLabels
from dat.training.options import DisplayStyle
from dat_engine.data import DataError
from dat_engine.distributed import Processes, ProcessesError
from dat_engine.errors import RunFailedError, UserError
from dat_engine.run.display import Display, open_display
from dat_engine.run.stop import Stop
from dat_engine.run.trainer import Ending, Trainer, Validate


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """How training ended; `stopped`: somebody asked it to, before it was evaluated, by `stop_signal` where by a signal."""

    ending: Ending
    stopped: bool = False
    stop_signal: int | None = None


def fit(trainer: Trainer, path: Path, *, time_limit: float | None, started: float | None, resume_by: str) -> Fitted:
    """Train; `time_limit` seconds are counted from `started` (on time.monotonic; None: now).

    Args:
        resume_by: what goes on with the run at `path`, as a person types it.

    Raises:
        ProcessesError: another process of the run has died.
        RunFailedError: the disk or the device's memory is full.
        DataError: a damaged file, found when its turn came.
    """
    with Stop(time_limit=time_limit, started=started) as stop:
        try:
            ending = trainer.train(stop)
        except ProcessesError as error:
            raise ProcessesError(f"{error}, which has died; go on from the newest checkpoint: {resume_by}") from error
        except torch.OutOfMemoryError as error:
            raise RunFailedError(
                f"{trainer.step.device} has too little memory for this step; use a smaller --batch-size or --model.width"
            ) from error
        except DataError:
            raise
        except UserError as error:  # a full disk: the input was right, the run failed
            raise RunFailedError(str(error)) from error
        alone = trainer.processes.world_size == 1
        stopped = ending if ending in ("signal", "time limit") else stop.reason if alone else None
        signal_number = stop.signal_number
    if stopped is None:
        return Fitted(ending=ending)
    trainer.display.note(
        f"stopped by {'a signal' if stopped == 'signal' else 'the time limit'} after {trainer.seconds:.0f} s of "
        f"training; saved in {path}; go on with: {resume_by}"
    )
    return Fitted(ending=stopped, stopped=True, stop_signal=signal_number if stopped == "signal" else None)


def validation_by(
    data: ImagesAndLabels | None, *, epsilon: float, batch_size: int, seed: int, processes: Processes
) -> Validate | None:
    """What maps a model to its accuracies on `data` after every epoch; None where there are none."""
    if data is None:
        return None

    def validate(model: nn.Module) -> Mapping[str, float]:
        return evaluate(
            model,
            data,
            ("natural", "pgd20"),
            epsilon=epsilon,
            batch_size=batch_size,
            seed=seed,
            processes=processes,
        )

    return validate


def display_of(style: DisplayStyle, processes: Processes) -> Display:
    """The display of a run, of which the main process alone has one that speaks."""
    return open_display(style if processes.is_main else "silent")


def spoken_warnings(style: DisplayStyle, processes: Processes, display: Display) -> AbstractContextManager[None]:
    """Warnings go through the display where there is one that speaks; else they stay on standard error."""
    if not processes.is_main or style == "silent":
        return nullcontext()
    return spoken_by(display.warn)
