"""``dat train``: one recipe from data to a run directory with natural and robust accuracy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dat.evaluation.evaluate import TITLES, Accuracy, evaluate_together, parse_attacks
from dat.methods import METHODS
from dat.recipes import Recipe, differences
from dat.training.build import (
    TrainingData,
    build_method,
    build_model,
    build_step,
    choose_device,
    execution,
    executor,
    load_test_data,
    load_training_data,
)
from dat.training.trained import checkpoint_identity
from dat_engine.data import DataError, ImageSource
from dat_engine.distributed import Processes, ProcessesError, join
from dat_engine.run.display import Display, open_display
from dat_engine.run.durable_file import replacing
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.stop import Stop, parse_duration, process_start
from dat_engine.run.trainer import Ending, Trainer, TrainingPlan
from dat_engine.step.guard import NonFiniteError
from dat_engine.step.training_step import TrainingStep

LAUNCH_FILE = ".launch"


class RunFailedError(RuntimeError):
    """A run that began well and cannot go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Where and how long a recipe runs; not part of the experiment."""

    data_root: Path = Path("data")
    """Folder that holds (or will hold, after a download) the data set."""
    run_dir: Path | None = None
    """Run directory; None: runs/RECIPE-METHOD."""
    device: str | None = None
    """cpu, cuda or cuda:N; None: the GPU where there is one."""
    max_steps: int | None = None
    """Stop after this many steps."""
    time_limit: str | None = None
    """Stop and save after this long, e.g. 9m, 90s, 1h30m; --resume goes on."""
    resume: bool = False
    """Go on with the run in the run directory from its newest checkpoint."""
    progress: Literal["auto", "terminal", "plain", "silent"] = "auto"
    """How progress is shown; auto: a live display on a terminal, lines elsewhere."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1; got {self.max_steps}")
        if self.time_limit is not None:
            parse_duration(self.time_limit)


def train(recipe: Recipe, options: RunOptions) -> int:
    """Train and evaluate; returns the process's exit code: 0, or 143 after SIGTERM or Ctrl+C.

    Under torchrun every process calls this; the first one writes and speaks.

    Raises:
        ValueError: wrong input, with one sentence that says what and what to do; nothing has been overwritten.
        ProcessesError: another process of the run has died.
    """
    parse_attacks(recipe.evaluation.attacks)
    device = choose_device(options.device)
    processes = join(device.type)
    if processes.world_size > 1 and recipe.engine.execution == "graphed":
        raise ValueError("one CUDA graph per step serves one process; use --engine.execution compiled with torchrun")
    path = options.run_dir or Path("runs") / f"{recipe.name}-{recipe.method}"
    resume = options.resume or (processes.restarts > 0 and _began_here(path))
    if resume:
        _refuse_other_recipe(recipe, path)
    data = load_training_data(recipe, options.data_root, device, processes)
    test = load_test_data(recipe, options.data_root, recipe.evaluation.limit, processes)
    if test.class_names != data.train.class_names:
        raise ValueError(f"train and test of {recipe.data.name} under {options.data_root} have different classes")
    model = build_model(recipe, data.train.num_classes, data.train.image_shape).to(device)
    step = build_step(recipe, model, build_method(recipe, data.train, device), processes)
    limit = None if options.time_limit is None else parse_duration(options.time_limit)
    with _open_run(recipe, path, resume, processes) as run, _open_display(options, processes) as display:
        display.start(_title(recipe, model, data, path, step, processes), epochs=recipe.epochs)
        trainer = _trainer(recipe, options, step, data, run, display, processes)
        if run.checkpoints.step_paths():
            trainer.resume()
        elif resume and processes.is_main:  # it was killed before its first checkpoint
            run.truncate_metrics(0)
        ending, stopped = _train(trainer, limit, path)
        if stopped is None:
            # a signal now ends the process at once: training is saved, and --resume evaluates again
            _evaluate_result(recipe, run, model, test, display, ending, trainer)
            return 0
        display.note(
            f"stopped by {'a signal' if stopped == 'signal' else 'the time limit'} after {trainer.seconds:.0f} s of "
            f"training; saved in {path}; add --resume to go on"
        )
        return 143 if stopped == "signal" else 0


def _train(trainer: Trainer, limit: float | None, path: Path) -> tuple[Ending, str | None]:
    """Train; how it ended, and what asked it to stop (None: go on to the evaluation)."""
    with Stop(time_limit=limit, started=process_start()) as stop:
        try:
            ending = trainer.train(stop)
        except RuntimeError as error:
            raise _lost_process(error, trainer.processes, path) from error
        except DataError:  # a damaged file, found when its turn came
            raise
        except ValueError as error:  # a full disk: the input was right, the run failed
            raise RunFailedError(str(error)) from error
        if ending in ("signal", "time limit"):
            return ending, ending
        return ending, stop.reason if trainer.processes.world_size == 1 else None


def _open_run(recipe: Recipe, path: Path, resume: bool, processes: Processes) -> RunDirectory:
    """The run directory: locked for writing in the main process, which goes first, to look at in the others."""
    if not processes.is_main:
        processes.barrier()
        return RunDirectory.open(path)
    if resume:
        run = RunDirectory.resume(path)
    else:
        run = RunDirectory.create(path, recipe.to_dict())
        if processes.world_size > 1:
            with replacing(path / LAUNCH_FILE) as file:  # in place of a link by that name too, not through it
                file.write(_launch().encode())
    processes.barrier()
    return run


def _launch() -> str:
    """What all processes of one torchrun command share, its restarts included."""
    return " ".join(os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))


def _began_here(path: Path) -> bool:
    """Whether the run at `path` was begun by this very torchrun command, before one of its processes died."""
    note = path / LAUNCH_FILE
    return note.is_file() and note.read_text() == _launch()


def _open_display(options: RunOptions, processes: Processes) -> Display:
    return open_display(options.progress if processes.is_main else "silent")


def _lost_process(error: RuntimeError, processes: Processes, path: Path) -> RuntimeError:
    """`error`, or where it tells of a process that has died, one sentence that says so."""
    text = str(error)
    if processes.world_size == 1 or isinstance(error, NonFiniteError):
        return error
    if not isinstance(error, ProcessesError) and not any(word in text for word in ("gloo", "NCCL", "Connection")):
        return error
    return ProcessesError(
        f"process {processes.rank} of {processes.world_size} stops because another one has died "
        f"({text.splitlines()[0][:200]}); go on from the newest checkpoint in {path} with --resume"
    )


def _trainer(
    recipe: Recipe,
    options: RunOptions,
    step: TrainingStep,
    data: TrainingData,
    run: RunDirectory,
    display: Display,
    processes: Processes,
) -> Trainer:
    validation = data.validation

    def validate(model: nn.Module) -> Mapping[str, float]:
        assert validation is not None
        results = evaluate_together(
            processes,
            model,
            validation,
            ("natural", "pgd20"),
            epsilon=recipe.epsilon,
            batch_size=recipe.evaluation.batch_size,
            seed=recipe.seed,
        )
        return {result.attack: result.percent for result in results}

    plan = TrainingPlan(
        epochs=recipe.epochs,
        learning_rate=recipe.optimizer.learning_rate,
        schedule=recipe.schedule,
        max_steps=options.max_steps,
        log_every=recipe.log_every,
    )
    return Trainer(
        step,
        data.loader,
        plan,
        run,
        display,
        processes=processes,
        identity=checkpoint_identity(recipe, data.train),
        execute=executor(recipe, step, processes),
        validate=None if validation is None else validate,
        select_by=METHODS[recipe.method].select_by,
    )


def _evaluate_result(
    recipe: Recipe,
    run: RunDirectory,
    model: nn.Module,
    test: ImageSource,
    display: Display,
    ending: Ending,
    trainer: Trainer,
) -> None:
    processes = trainer.processes
    best = run.checkpoints.best_path.exists()
    if best:
        model.load_state_dict(run.checkpoints.load_best()["training"]["model"])
    started = time.perf_counter()
    results = evaluate_together(
        processes,
        model,
        test,
        parse_attacks(recipe.evaluation.attacks),
        epsilon=recipe.epsilon,
        batch_size=recipe.evaluation.batch_size,
        seed=recipe.seed,
        on_progress=lambda attack, done: display.activity(f"evaluating {TITLES[attack]}: {done} images"),
    )
    if not processes.is_main:
        return
    run.write_summary(
        {
            "recipe": recipe.name,
            "method": recipe.method,
            "epsilon": recipe.epsilon,
            "checkpoint": "best" if best else "last",
            "ending": ending,
            "training_seconds": trainer.seconds,
            "evaluation_seconds": time.perf_counter() - started,
            "test_images": results[0].images,
            "damaged_files": list(trainer.loader.damaged_files),
            "accuracy": {result.attack: result.percent for result in results},
        }
    )
    display.summary(
        titled(results),
        title=f"{recipe.method} on {results[0].images} test images, epsilon {recipe.epsilon:.4g}",
    )


def titled(results: list[Accuracy]) -> dict[str, float]:
    """Accuracies under the attacks' display names."""
    return {TITLES[result.attack]: result.percent for result in results}


def _refuse_other_recipe(recipe: Recipe, path: Path) -> None:
    found = differences(RunDirectory.open(path).config, recipe.to_dict())
    if found:
        raise ValueError(
            f"{path} holds a run of another recipe; it differs in {', '.join(found[:5])}; give the same flags to resume "
            "it, or start a new run in another --run-dir"
        )


def _title(
    recipe: Recipe, model: nn.Module, data: TrainingData, path: Path, step: TrainingStep, processes: Processes
) -> dict[str, object]:
    device = step.device
    return {
        "recipe": recipe.name,
        "method": recipe.method,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **({"processes": processes.world_size} if processes.world_size > 1 else {}),
        "precision": step.precision.name,
        "execution": execution(recipe, device, processes),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "images": len(data.train),
        "run": str(path),
    }
