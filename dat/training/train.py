"""One recipe from data to a run directory with natural and robust accuracy."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dat.evaluation import parse_attacks
from dat.methods import METHODS
from dat.recipes import Recipe
from dat.recipes.reading import recipe_from_dict
from dat.training.build import build_model, build_step, executor
from dat.training.checks import check_without_data
from dat.training.data import TrainingData, load_test_data, load_training_data
from dat.training.device import choose_device
from dat.training.fitting import display_of, fit, say_stopped, spoken_warnings, validation_by
from dat.training.launch import began_here, begin_again, open_run
from dat.training.options import RunOptions, default_run_dir
from dat.training.rate_drops import say_when_rate_drops
from dat.training.result import evaluate_result
from dat.training.resumption import experiment_difference, refuse_other_numbers
from dat.training.run import Run
from dat.training.title import run_title
from dat.training.trained import checkpoint_identity
from dat_engine.distributed import Processes, join, leave
from dat_engine.errors import UserError
from dat_engine.run.determinism import deterministic, reserve_workspaces
from dat_engine.run.display import Display
from dat_engine.run.interval import parse_interval
from dat_engine.run.plan import TrainingPlan
from dat_engine.run.run_directory import RunDirectory, refuse_taken
from dat_engine.run.stop import Stop, Stopped, launcher, parse_duration
from dat_engine.run.trainer import Trainer
from dat_engine.step.training_step import TrainingStep


def train_recipe(recipe: Recipe, options: RunOptions, *, started: float | None = None) -> Run:
    """Train and evaluate.

    Under torchrun every process calls this; the first one writes and speaks. Whatever of the process this changes (signal
    handlers, the display of warnings, the exchange with other processes) is afterwards as it was.

    Args:
        started: from when a time limit counts, on time.monotonic; None: from now.

    Raises:
        UserError: wrong input, with one sentence that says what and what to do; nothing has been overwritten.
        ProcessesError: another process of the run has died.
        RunFailedError: the disk or the device's memory is full.
        NonFiniteError: too many steps in a row were skipped.
        KeyboardInterrupt: Ctrl+C during the evaluation; training is saved.
    """
    parse_attacks(recipe.evaluation.attacks)
    path = options.run_dir or default_run_dir(recipe.name, recipe.method)
    if not options.resume and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        refuse_taken(path)
    device = choose_device(options.device)
    check_without_data(recipe, options.data_root, device)
    if options.deterministic:
        reserve_workspaces()
    processes = join(device.type)
    try:
        return _train_together(recipe, options, path, device, processes, started)
    finally:
        if processes.world_size > 1:
            leave()


def _train_together(
    recipe: Recipe,
    options: RunOptions,
    path: Path,
    device: torch.device,
    processes: Processes,
    started: float | None,
) -> Run:
    """`train_recipe` for one of the run's processes."""
    if processes.world_size > 1 and recipe.engine.execution == "graphed":
        raise UserError("one CUDA graph per step serves one process; use --engine.execution compiled with torchrun")
    resume = options.resume or (processes.restarts > 0 and began_here(path))
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
    resume_by = f"dat train --resume --run-dir {path}"
    with (
        open_run(recipe, options, path, resume, processes) as run,
        display_of(options.progress, processes) as display,
        spoken_warnings(options.progress, processes, display),
        deterministic(options.deterministic),
        Stop(time_limit=limit, started=started, launcher=launcher()) as stop,
    ):
        display.start(run_title(recipe, model, data, path, step, processes), epochs=recipe.epochs)
        say_when_rate_drops(recipe, data.loader.steps_per_epoch, display)
        trainer = _trainer(recipe, options, step, data, run, display, processes, stop)
        if run.checkpoints.step_paths():
            trainer.resume()
        elif resume:  # it was killed before its first checkpoint
            begin_again(run, path, processes)
        ending = fit(trainer, stop, resume_by=resume_by)
        if ending in ("signal", "time limit"):
            say_stopped(display, ending, f"after {trainer.seconds:.0f} s of training; saved in {path}", resume_by)
            return Run(path=path, recipe=recipe, ending=ending, stop_signal=stop.signal_number)
        try:
            accuracy = evaluate_result(recipe, run, test, display, ending, trainer, stop)
        except Stopped as stopped:
            done = f"in the final evaluation; training is complete and saved in {path}"
            say_stopped(display, stopped.ending, done, resume_by)
            return Run(path=path, recipe=recipe, ending=stopped.ending, stop_signal=stop.signal_number)
        except KeyboardInterrupt:
            display.note(
                f"interrupted while evaluating; training is complete and saved in {path}: `dat evaluate {path}` "
                f"evaluates it, `{resume_by}` evaluates it as the recipe says"
            )
            raise
        return Run(path=path, recipe=recipe, ending=ending, accuracy=dict(accuracy))


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
        validate=validation_by(
            data.validation,
            step,
            epsilon=recipe.epsilon,
            batch_size=recipe.evaluation.batch_size,
            seed=recipe.seed,
            processes=processes,
            stop=stop,
        ),
        select_by=METHODS[recipe.method].select_by,
    )
