"""The training loop: epochs of steps, validation, logs, checkpoints, resumption. Knows no method by name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dat_engine.data import Batch, Loader, prefetched
from dat_engine.distributed import ONE_PROCESS, Processes
from dat_engine.errors import RunFailedError, UserError
from dat_engine.profile.timing import now
from dat_engine.run.averaging import Averaging
from dat_engine.run.checkpoint import CheckpointError
from dat_engine.run.checkpoint_writer import CheckpointWriter
from dat_engine.run.display import Display, EpochRow
from dat_engine.run.figures import Figures
from dat_engine.run.plan import Position, TrainingPlan
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.stop import Stop, Stopped
from dat_engine.run.training_state import STATE_VERSION, check_state_version, check_training_state
from dat_engine.run.unequal import first_unequal
from dat_engine.step.evaluated import evaluated_name
from dat_engine.step.guard import NonFiniteError
from dat_engine.step.training_step import TrainingStep

Ending = Literal["finished", "step limit", "time limit", "signal"]
Validate = Callable[[nn.Module], Mapping[str, float]]


class Trainer:
    """Runs a `TrainingStep` over a loader and leaves a run directory behind.

    Args:
        run: where figures and checkpoints go; only the main process writes into it.
        processes: the run's processes; step, loader and `validate` must be theirs too.
        execute: takes a batch through the step; None: `step` itself. A `dat_engine.step.graph.GraphedStep` of it, say.
        validate: maps the model to percentages after every epoch; `select_by` names the one that the best checkpoint
            maximises. None: no validation, and the newest checkpoint is the result. A validation that looks at the stop
            between its batches leaves by `dat_engine.run.stop.Stopped`, in all processes alike.
        identity: JSON description of the experiment, stored in every checkpoint; one of another experiment is refused.
        difference: says from a checkpoint's identity and the run's own what makes them two experiments' (None: they are
            one's); default: where they are not equal.
    """

    def __init__(
        self,
        step: TrainingStep,
        loader: Loader,
        plan: TrainingPlan,
        run: RunDirectory,
        display: Display,
        *,
        processes: Processes = ONE_PROCESS,
        identity: Mapping[str, Any],
        difference: Callable[[Mapping[str, Any], Mapping[str, Any]], str | None] = first_unequal,
        execute: Callable[[Batch], dict[str, Tensor]] | None = None,
        validate: Validate | None = None,
        select_by: str = "pgd20",
    ) -> None:
        self.step = step
        self.loader = loader
        self.plan = plan
        self.run = run
        self.display = display
        self.processes = processes
        self.execute = execute or step
        self.identity = dict(identity)
        self.difference = difference
        self.validate = validate
        self.select_by = select_by
        self._position = Position()
        self._figures = Figures(run, display, processes)
        self._epoch_started = time.perf_counter()
        self._writer = CheckpointWriter(run.checkpoints, plan.checkpoints)
        self._averaging = Averaging(step, processes, lambda: self._batches(0))

    def resume(self) -> None:
        """Take up the newest readable checkpoint of the run directory, of as many processes as it may have been.

        With another number of processes, or another kind of device, than the checkpoint's the random numbers from here on
        are new ones, BatchNorm statistics start from the mean over its processes, and an unfinished epoch goes on at the
        same share of its images.

        Raises:
            CheckpointError: none is readable, or it belongs to another experiment or is built otherwise than this run's.
            RunFailedError: the figures of later steps cannot be dropped.
        """
        state, path = self.run.checkpoints.load_newest(device=self.step.device)
        check_state_version(state, path)
        difference = self.difference(state.get("identity", {}), self.identity)
        if difference is not None:
            raise CheckpointError(
                f"{path} is a checkpoint of another recipe ({difference}); start a new run in another --run-dir"
            )
        check_training_state(state, self._own_state(), path)
        self.step.load_state_dict(state["training"])
        self._position = Position(**state["position"])
        self._take_up(state["processes"])
        if self.processes.is_main:
            self.run.truncate_metrics(self._position.step, lines=state["metrics_lines"])

    @property
    def seconds(self) -> float:
        """Wall time spent in training steps, waiting for their data, and estimating the statistics of averages at the ends of
        epochs; earlier sessions of the run included."""
        return self._position.seconds

    def _take_up(self, saved: list[dict[str, Any]]) -> None:
        """Each process's own part of a checkpoint."""
        statistics = self.step.guard.statistics
        own = saved[self.processes.rank % len(saved)]
        if len(saved) == self.processes.world_size and self.step.set_generator_state(own["generator"]):
            statistics.copy_(own["statistics"])
            self._figures.take_up(own)
            return
        position = self._position
        self.step.generator.manual_seed(self.step.generator.initial_seed() + position.step + 1)
        statistics.copy_(torch.stack([part["statistics"] for part in saved]).mean(dim=0))
        position.step_in_epoch = position.step_in_epoch * len(saved) // self.processes.world_size
        self._figures.take_up_of_all(saved)

    def train(self, stop: Stop) -> Ending:
        """Train to the end of the plan or until interrupted, at a step's end; a checkpoint is written either way.

        Checkpoints are written by another thread while training goes on; the last one is on disk when this returns.

        Raises:
            NonFiniteError: too many steps in a row were skipped: found after the last of them on a CPU, a few steps later on
                a GPU, which nobody waits for; nothing changes meanwhile. The newest checkpoint then holds what the last good
                step left.
            DataError: the first batch cannot be trained on (`dat_engine.step.first_batch`).
            CheckpointError: a checkpoint cannot be written: raised between the steps after which it is known.
            RunFailedError: figures cannot be written.
        """
        self._writer.start_from(self._position.step)
        try:
            ending = self._train(stop)
        except NonFiniteError:
            self._leave_what_the_last_good_step_left()
            raise
        except BaseException:
            with contextlib.suppress(UserError, OSError):  # let the thread end; the first error is the one to hear of
                self._writer.wait()
            raise
        self._writer.wait()
        self.processes.barrier()
        return ending

    def _train(self, stop: Stop) -> Ending:
        position = self._position
        while position.epoch < self.plan.epochs:
            ending = self._train_epoch(stop) or self._finish_epoch()
            if ending is not None:
                self.step.guard.raise_if_diverged(step=position.step)
                if ending == "step limit":  # what is evaluated now; a run that is resumed has no need of it
                    epoch = position.epoch + position.step_in_epoch / self.loader.steps_per_epoch
                    self._averaging.make_ready(epoch=epoch, epochs=self.plan.epochs)
                self._save()
                # after the snapshot: who resumes with a higher limit fills the window up and logs it whole
                if ending == "step limit":
                    self._figures.log_rest(position, self._learning_rate)
                return ending
        return "finished"

    def _train_epoch(self, stop: Stop) -> Ending | None:
        position = self._position
        first = position.step_in_epoch
        window_start = clock = self._epoch_started = time.perf_counter()
        window_steps = 0
        shows_every_step = self.step.device.type == "cpu"
        per_epoch, images_per_step = self.loader.steps_per_epoch, self.loader.batch_size * self.processes.world_size
        for batch in self._batches(first):
            if self.plan.max_steps is not None and position.step >= self.plan.max_steps:
                return "step limit"
            fraction = position.epoch + position.step_in_epoch / per_epoch
            factor = self.plan.schedule.factor(fraction, self.plan.epochs, step=1 / per_epoch)
            learning_rate = self.plan.learning_rate * factor
            self.step.set_learning_rate(learning_rate)
            self.step.progress.set(epoch=fraction, fraction=min(fraction / self.plan.epochs, 1.0))
            self.step.check_if_first(batch)  # `execute` may be anybody's
            metrics = self.execute(batch)
            self._figures.add(metrics)
            position.step += 1
            position.step_in_epoch += 1
            window_steps += 1
            log_point = position.step % self.plan.log_every == 0
            if log_point or shows_every_step:
                loss, accuracy = self._figures.so_far()  # waits for the device, whose time the clock is to hold
                rate = window_steps * images_per_step / (time.perf_counter() - window_start)
                self._show_step(loss, accuracy, rate, images_per_step)
                if log_point:
                    self._figures.log_step(position, learning_rate, rate)
                    window_start, window_steps = time.perf_counter(), 0
            now = time.perf_counter()
            position.seconds += now - clock
            clock = now
            ending = self._asked_to_stop(stop)
            if ending is not None:
                return ending
        return None

    def _batches(self, first: int) -> Generator[Batch, None, None]:
        """The epoch's batches from step `first` on. Where a process has none to give, none begins the step.

        Raises:
            UserError, RunFailedError: of the loader, a damaged file say, once a checkpoint holds the steps before it.
        """
        batches = prefetched(self.loader.epoch(self._position.epoch, start_step=first), self.step.device)
        while True:
            try:
                with self.processes.failing_together():
                    batch = next(batches, None)
            except (UserError, RunFailedError):
                if self._position.step:
                    self._save()
                raise
            if batch is None:
                return
            yield batch

    def _asked_to_stop(self, stop: Stop) -> Ending | None:
        """Why to stop after this step; all processes answer alike.

        Raises:
            NonFiniteError: too many steps in a row were skipped, and one of the processes has heard of it.
        """
        reason, diverged = stop.reason, self.step.guard.seen_to_diverge()
        unfinished = self._position.step_in_epoch < self.loader.steps_per_epoch  # else the epoch's end writes one
        due = self.processes.is_main and unfinished and self._writer.is_due(self._position.step)
        asked = self.processes.total(
            {"signal": reason == "signal", "time limit": reason == "time limit", "diverged": diverged, "save": due}
        )
        if asked["diverged"]:
            self.step.guard.raise_if_diverged(step=self._position.step)
        if asked["signal"]:
            return "signal"
        if asked["time limit"]:
            return "time limit"
        if asked["save"]:
            self._save(passing=True)
        return None

    def _show_step(self, loss: float, accuracy: float, rate: float, images_per_step: int) -> None:
        position, per_epoch = self._position, self.loader.steps_per_epoch
        total = self.plan.epochs * per_epoch
        if self.plan.max_steps is not None:
            total = min(total, self.plan.max_steps)
        seconds_left = (total - position.step) * images_per_step / rate
        self.display.step(
            position.epoch + 1, position.step_in_epoch, per_epoch, loss, 100.0 * accuracy, rate, seconds_left
        )

    @property
    def _learning_rate(self) -> float:
        return float(self.step.optimizer.param_groups[0]["lr"])

    def _finish_epoch(self) -> Ending | None:
        """Validate, log, save; the ending where that is asked to stop: the epoch is then as unfinished as before."""
        position = self._position
        self.step.guard.raise_if_diverged(step=position.step)
        means = self._figures.epoch_means()
        own_statistics = self.step.guard.statistics.clone()
        # so that all validate the same model
        self.processes.average_({"statistics": self.step.guard.statistics})
        started = now(self.step.device)
        self._averaging.end_epoch(epochs_done=position.epoch + 1, epochs=self.plan.epochs)
        position.seconds += now(self.step.device) - started
        self.display.activity("validating")
        try:
            validation = dict(self.validate(self.step.evaluated_model)) if self.validate is not None else {}
        except Stopped as stopped:
            # the mean of means is not theirs to the last bit: a resumed run shares what each process had
            self.step.guard.statistics.copy_(own_statistics)
            return stopped.ending
        score = validation.get(self.select_by)
        improved = score is not None and (position.best is None or score > position.best)
        if improved:
            position.best = score
        position.epoch += 1
        position.step_in_epoch = 0
        self._figures.log_epoch(
            position,
            means,
            validation,
            lr=self._learning_rate,
            best=improved,
            evaluated=evaluated_name(self.step),
            damaged_files=len(self.loader.damaged_files),
        )
        self._save(best=improved)
        self.display.epoch_end(
            EpochRow(
                epoch=position.epoch,
                epochs=self.plan.epochs,
                loss=means["loss"],
                robust_train_accuracy=100.0 * means["accuracy"],
                natural_accuracy=validation.get("natural"),
                pgd20_accuracy=validation.get("pgd20"),
                lr=self._learning_rate,
                seconds=time.perf_counter() - self._epoch_started,
                best=improved,
            )
        )
        return None

    def _save(self, *, best: bool = False, passing: bool = False) -> None:
        """Have a checkpoint written; every process takes part in gathering it, here and now."""
        position, state = self._position, self._state()
        if self.processes.is_main:
            self._writer.save(state, step=position.step, epoch=position.epoch, best=best, passing=passing)

    def _leave_what_the_last_good_step_left(self) -> None:
        """After too many bad steps: a checkpoint to go on from, with another rate or more precision, past their batches.

        The guard has kept weights, moments and statistics from before; the count of bad steps begins anew. A row of
        metrics.jsonl says how the run ended.
        """
        state = self._state()
        state["training"]["guard"]["consecutive"].zero_()
        if self.processes.is_main:
            position = self._position
            with contextlib.suppress(UserError):
                self._writer.wait()
            with contextlib.suppress(UserError, RunFailedError):  # that training diverged is what there is to say
                self._writer.save(state, step=position.step, epoch=position.epoch)
                self._writer.wait()
                self._figures.log_divergence(position)
        self.processes.barrier()

    def _state(self) -> dict[str, Any]:
        own = self._own_part()
        # not gathered where there is nobody to gather from: that would wait for the device
        parts = [own] if self.processes.world_size == 1 else self.processes.gather(own)
        return {**self._own_state(), "processes": parts}

    def _own_part(self) -> dict[str, Any]:
        return {
            "generator": self.step.generator.get_state(),
            "statistics": self.step.guard.statistics,
            **self._figures.sums,
        }

    def _own_state(self) -> dict[str, Any]:
        """The state with this process's part alone."""
        return {
            "state_version": STATE_VERSION,
            "processes": [self._own_part()],
            "metrics_lines": self.run.metrics.lines if self.processes.is_main else 0,
            "identity": self.identity,
            "training": self.step.state_dict(),
            "position": asdict(self._position),
        }
