"""``dat train``: one recipe from data to a run directory with natural and robust accuracy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from dat.cli.spoken_warnings import spoken_by
from dat.evaluation import TITLES, evaluate, parse_attacks
from dat.methods import METHODS
from dat.recipes import Recipe
from dat.recipes.reading import recipe_from_dict
from dat.training.build import (
    TrainingData,
    build_model,
    build_step,
    check_without_data,
    choose_device,
    execution,
    executor,
    load_test_data,
    load_training_data,
)
from dat.training.options import RunOptions
from dat.training.rate_drops import say_when_rate_drops
from dat.training.resumption import RATE, experiment_difference, flag_of, refuse_other_numbers
from dat.training.trained import checkpoint_identity, classifier_state
from dat_engine.data import DataError, ImageSource
from dat_engine.distributed import Processes, ProcessesError, join
from dat_engine.errors import RunFailedError, UserError
from dat_engine.run.determinism import deterministic, reserve_workspaces
from dat_engine.run.display import Display, open_display
from dat_engine.run.durable_file import replacing
from dat_engine.run.interval import parse_interval
from dat_engine.run.run_directory import RunDirectory, refuse_taken
from dat_engine.run.stop import Stop, Stopped, launcher, parse_duration, process_start
from dat_engine.run.trainer import Ending, Trainer, TrainingPlan
from dat_engine.step.guard import NonFiniteError
from dat_engine.step.training_step import TrainingStep

LAUNCH_FILE = ".launch"


def train(recipe: Recipe, options: RunOptions) -> int:
    """Train and evaluate; returns the process's exit code: 0, also at a time limit, 130 after Ctrl+C, 143 after SIGTERM.

    Under torchrun every process calls this; the first one writes and speaks.

    Raises:
        UserError: wrong input, with one sentence that says what and what to do; nothing has been overwritten.
        ProcessesError: another process of the run has died.
        RunFailedError: the disk or the device's memory is full.
    """
    attacks = parse_attacks(recipe.evaluation.attacks)
    path = options.run_dir or Path("runs") / f"{recipe.name}-{recipe.method}"
    if not options.resume and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        refuse_taken(path)
    device = choose_device(options.device)
    check_without_data(recipe, options.data_root, device)
    if options.deterministic:
        reserve_workspaces()
    processes = join(device.type)
    if processes.world_size > 1 and recipe.engine.execution == "graphed":
        raise UserError("one CUDA graph per step serves one process; use --engine.execution compiled with torchrun")
    resume = options.resume or (processes.restarts > 0 and _began_here(path))
    if resume:
        begun = recipe_from_dict(RunDirectory.open(path).config, source=str(path / "config.json"))
        refuse_other_numbers(begun, recipe, path)
    data = load_training_data(recipe, options.data_root, device, processes)
    test = load_test_data(recipe, options.data_root, recipe.evaluation.limit, processes)
    if test.class_names != data.train.class_names:
        raise UserError(f"train and test of {recipe.data.name} under {options.data_root} have different classes")
    model = build_model(recipe, data.train.num_classes, data.train.image_shape).to(device)
    step = build_step(recipe, model, data.method, processes)
    limit = None if options.time_limit is None else parse_duration(options.time_limit)
    with (
        _open_run(recipe, options, path, resume, processes) as run,
        _open_display(options, processes) as display,
        _warnings(options, processes, display),
        deterministic(options.deterministic),
        Stop(time_limit=limit, started=process_start(), launcher=launcher()) as stop,
    ):
        display.start(_title(recipe, model, data, path, step, processes), epochs=recipe.epochs)
        say_when_rate_drops(recipe, data.loader.steps_per_epoch, display)
        trainer = _trainer(recipe, options, step, data, run, display, processes, stop)
        if run.checkpoints.step_paths():
            trainer.resume()
        elif resume:  # it was killed before its first checkpoint
            begin_again(run, path, processes)
        ending = _train(trainer, stop, path)
        if ending in ("signal", "time limit"):
            return _say_stopped(ending, stop, f"after {trainer.seconds:.0f} s of training; saved", path, display)
        try:
            _evaluate_result(recipe, run, step.evaluated_model, test, display, ending, trainer, attacks, stop)
        except Stopped as stopped:
            what = "in the final evaluation; training is complete and saved"
            return _say_stopped(stopped.ending, stop, what, path, display)
        except KeyboardInterrupt:
            display.note(
                f"interrupted while evaluating; training is complete and saved in {path}: `dat evaluate {path}` "
                f"evaluates it, `dat train --resume --run-dir {path}` evaluates it as the recipe says"
            )
            return 130
        return 0


def _say_stopped(ending: str, stop: Stop, what: str, path: Path, display: Display) -> int:
    """The exit code of a run that was stopped, once it has said how to go on."""
    by = "a signal" if ending == "signal" else "the time limit"
    display.note(f"stopped by {by} {what} in {path}; go on with: dat train --resume --run-dir {path}")
    if ending == "time limit":
        return 0
    return stop.exit_code or 143  # 0: another process of the run was told


def _train(trainer: Trainer, stop: Stop, path: Path) -> Ending:
    """Train; errors that are the run's say what to do."""
    try:
        return trainer.train(stop)
    except ProcessesError as error:
        raise ProcessesError(
            f"{error}, which has died; go on from the newest checkpoint: dat train --resume --run-dir {path}"
        ) from error
    except NonFiniteError as error:
        rate = trainer.plan.learning_rate
        raise NonFiniteError(
            f"{error}; the newest checkpoint holds them: go on at a lower rate with: dat train --resume --run-dir {path} "
            f"{flag_of(RATE, '')} {rate / 4:g}"
        ) from error
    except torch.OutOfMemoryError as error:
        raise RunFailedError(
            f"{trainer.step.device} has too little memory for this step; use a smaller --batch-size or --model.width"
        ) from error
    except DataError:  # a damaged file, found when its turn came
        raise
    except UserError as error:  # a full disk: the input was right, the run failed
        raise RunFailedError(str(error)) from error


def _open_run(recipe: Recipe, options: RunOptions, path: Path, resume: bool, processes: Processes) -> RunDirectory:
    """The run directory: locked for writing in the main process, which goes first, to look at in the others."""
    run: RunDirectory | None = None
    keep = options.checkpoint.keep
    with processes.failing_together():
        if processes.is_main and resume:
            run = RunDirectory.resume(path, keep_checkpoints=keep)
            if (run.config, run.options) != (recipe.to_dict(), options.to_dict()):
                run.rewrite_config(recipe.to_dict(), options.to_dict())
        elif processes.is_main:
            run = RunDirectory.create(path, recipe.to_dict(), options=options.to_dict(), keep_checkpoints=keep)
            if processes.world_size > 1:
                with replacing(path / LAUNCH_FILE) as file:  # in place of a link by that name too, not through it
                    file.write(_launch().encode())
    return run or RunDirectory.open(path)


def begin_again(run: RunDirectory, path: Path, processes: Processes) -> None:
    """Of a run without checkpoints: start from its beginning, unless that would throw away what it has trained.

    Under torchrun, which has started the processes anew by itself, there is nobody to ask and nothing older to lose.

    Raises:
        UserError: it has trained; says how to go on with it or start it again.
    """
    why = run.why_it_cannot_begin_again() if processes.restarts == 0 else None
    processes.barrier()  # nobody looks at figures that the first process has dropped
    if why is not None:
        raise UserError(
            f"{path} has no checkpoint to go on from, but {why}; put its checkpoints back, or start it from its beginning "
            f"with: dat train --config {path}/config.json --run-dir ANOTHER"
        )
    if processes.is_main:
        run.truncate_metrics(0, lines=0)


def _launch() -> str:
    """What all processes of one torchrun command share, its restarts included."""
    return " ".join(os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))


def _began_here(path: Path) -> bool:
    """Whether the run at `path` was begun by this very torchrun command, before one of its processes died."""
    note = path / LAUNCH_FILE
    return note.is_file() and note.read_text() == _launch()


def _open_display(options: RunOptions, processes: Processes) -> Display:
    return open_display(options.progress if processes.is_main else "silent")


def _warnings(options: RunOptions, processes: Processes, display: Display) -> AbstractContextManager[None]:
    """Warnings go through the display where there is one that speaks; else they stay on standard error."""
    if not processes.is_main or options.progress == "silent":
        return nullcontext()
    return spoken_by(display.warn)


def _trainer(
    recipe: Recipe,
    options: RunOptions,
    step: TrainingStep,
    data: TrainingData,
    run: RunDirectory,
    display: Display,
    processes: Processes,
    stop: Stop,
) -> Trainer:
    validation = data.validation

    def validate(model: nn.Module) -> Mapping[str, float]:
        assert validation is not None
        return evaluate(
            model,
            validation,
            ("natural", "pgd20"),
            epsilon=recipe.epsilon,
            batch_size=recipe.evaluation.batch_size,
            seed=recipe.seed,
            processes=processes,
            stop=stop,
        )

    plan = TrainingPlan(
        epochs=recipe.epochs,
        learning_rate=recipe.optimizer.learning_rate,
        schedule=recipe.schedule,
        max_steps=options.max_steps,
        log_every=recipe.log_every,
        checkpoints=parse_interval(options.checkpoint.every),
    )
    return Trainer(
        step,
        data.loader,
        plan,
        run,
        display,
        processes=processes,
        identity=checkpoint_identity(recipe, data.train),
        difference=experiment_difference,
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
    attacks: Sequence[str],
    stop: Stop,
) -> None:
    processes = trainer.processes
    best = False
    if (
        run.checkpoints.best_path.exists()
    ):  # a damaged one is warned of, and the newest, which is the model itself, evaluated
        selected, source = run.checkpoints.load_selected()
        model.load_state_dict(classifier_state(selected, model, source))
        best = source == run.checkpoints.best_path
    started = time.perf_counter()
    result = evaluate(
        model,
        test,
        attacks,
        epsilon=recipe.epsilon,
        batch_size=recipe.evaluation.batch_size,
        seed=recipe.seed,
        processes=processes,
        on_progress=lambda attack, done: display.activity(f"evaluating {TITLES[attack]}: {done} images"),
        stop=stop,
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
            "test_images": result.images,
            "damaged_files": list(trainer.loader.damaged_files),
            "accuracy": dict(result),
        }
    )
    display.summary(
        result.titled(),
        title=f"{recipe.method} on {result.images} test images, epsilon {recipe.epsilon:.4g}",
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
