"""`dat.Trainer`: a method on the caller's own network and data."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from dat.evaluation.images import check_epsilon
from dat.methods import METHODS
from dat.methods.named import name_and_settings
from dat.methods.task import Task
from dat.recipes import method_as_published
from dat.recipes.reading import check_settings
from dat.seed import check_seed
from dat.training.build import weight_perturbation
from dat.training.device import choose_device
from dat.training.fitting import display_of, fit, say_stopped, spoken_warnings, validation_by
from dat.training.launch import begin_again
from dat.training.options import DisplayStyle
from dat.training.own_data import OwnData, image_shape_of, own_augmentation, own_loader, own_validation
from dat.training.own_network import classes_of, give_branches
from dat.training.trained import classifier_state
from dat.training.views import check_labels
from dat_engine.data import Augmentation, ImageSource
from dat_engine.distributed import ONE_PROCESS
from dat_engine.errors import UserError
from dat_engine.model.branches import has_batchnorm
from dat_engine.model.precision import Precision
from dat_engine.run.plan import TrainingPlan
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.schedule import Schedule
from dat_engine.run.stop import Stop, parse_duration
from dat_engine.run.trainer import Ending
from dat_engine.run.trainer import Trainer as EngineTrainer
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizer_settings import OptimizerSettings, SGDSettings
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import AWPSettings, EMASettings, SWASettings, check_starts

Execution = Literal["auto", "eager", "compiled", "graphed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How a fit ended, and what it reached."""

    ending: Ending
    """finished, step limit, time limit or signal."""
    history: list[dict[str, Any]]
    """One dictionary for every epoch, as in metrics.jsonl."""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """Percent on the validation images by attack, of the weights that were chosen; empty without validation images."""


class Trainer:
    """Train the caller's own network on the caller's own data by any method of `dat.methods`.

    ``dat.Trainer(network, (images, labels), method=dat.methods.DAT(beta=6), epsilon=8/255, epochs=10).fit()``

    The network is trained in place, as everywhere in torch: it is moved to the device, and where the method trains on several
    groups of images at once its BatchNorm layers are replaced by branched ones (`dat.models.convert_batchnorm`), which
    normalise each group by itself and whose first branch is what ``network(images)`` uses; no logit changes by that.
    A network without BatchNorm (LayerNorm, GroupNorm) shares its normalisation between the branches, and the run says what that
    loses. Runs in one process.

    Args:
        model: any classifier of images [B, C, H, W] in [0, 1] -> logits [B, K]; it normalises its images itself.
        data: the training images. (images, labels) as tensors or arrays, images [N, C, H, W] uint8 or floating point in
            [0, 1], labels class numbers [N], or soft labels [N, K] where the method takes them; a map-style data set of
            torch, whose items are (image, label) and whose further views (dajat) are the item fetched again; a DataLoader, as
            it is; a data set of `dat_engine.data`.
        method: a method's name or its settings.
        epsilon: L-infinity radius of the threat model.
        validation: images on which the best epoch is chosen, by PGD-20 (plain training: natural accuracy); as `data`.
            None: the last weights are the result.
        epochs: the learning rate follows `schedule` over them; None, of the schedule: one cycle.
        batch_size: of everything but a DataLoader, which has its own.
        optimizer: of the network, SGD unless another is given: neither it nor `schedule` follows the method's paper; DAT's
            generator has its own in the method's settings.
        awp: perturbs the weights around their gradient, `dat.recipes.AWPSettings(gamma=0.005)`. None, as of the averages: what
            the method's paper does, starts with their share of `epochs`; ``AWPSettings()``: nothing.
        ema, swa: averages of the weights, `dat.recipes.EMASettings(decay=0.999)` and `dat.recipes.SWASettings(start=8)`,
            which are validated in their place (swa before ema), and which the network holds after `fit`.
        precision: a number format by name (auto, bf16, fp16, fp32) or a `dat_engine.model.precision.Precision`.
        augmentation: crop and flip, for uint8 images with class numbers, and of DAT's mixed image; `then` says what is done to
            an image besides, `Augmentation(padding=4, flip=True, then=dat_engine.data.CutMix())` for instance. None: only
            what is part of the method (idbh), for which other data are refused unless ``Augmentation(padding=0, flip=False)``
            says that they augment themselves.
        execution: as ``--engine.execution``; auto: one CUDA graph per step on a GPU, eager on a CPU.
        workers: processes that fetch the items of a data set.
        device: cpu, cuda or cuda:N; None: the GPU where there is one.
        run_dir: where figures and checkpoints go, and what ``fit(resume=True)`` goes on with. None: a temporary folder, gone
            with the trainer.
        max_steps, time_limit, log_every, progress, seed: as for `dat.train`.

    Raises:
        UserError: a network, data or setting that do not fit together; the network is as it was.
    """

    def __init__(
        self,
        model: nn.Module,
        data: OwnData,
        *,
        method: object = "dat",
        epsilon: float,
        epochs: int,
        validation: OwnData | None = None,
        batch_size: int = 128,
        optimizer: OptimizerSettings | None = None,
        awp: AWPSettings | None = None,
        ema: EMASettings | None = None,
        swa: SWASettings | None = None,
        schedule: Schedule | None = None,
        precision: str | Precision = "auto",
        augmentation: Augmentation | None = None,
        execution: Execution = "auto",
        workers: int = 0,
        device: str | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        max_steps: int | None = None,
        time_limit: str | float | None = None,
        log_every: int = 50,
        progress: DisplayStyle = "auto",
        seed: int = 0,
    ) -> None:
        name, settings = name_and_settings(method)
        check_epsilon(epsilon)
        for what, value in (("epochs", epochs), ("batch_size", batch_size), ("log_every", log_every)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{what} must be a whole number of at least 1; got {value!r}")
        _check_kind("optimizer", optimizer, OptimizerSettings, "dat_engine.step.optimizer_settings.SGDSettings(...)")
        _check_kind("awp", awp, AWPSettings, "dat.recipes.AWPSettings(gamma=0.005)")
        _check_kind("ema", ema, EMASettings, "dat.recipes.EMASettings(decay=0.999)")
        _check_kind("swa", swa, SWASettings, "dat.recipes.SWASettings(start=8)")
        _check_kind("schedule", schedule, Schedule, 'dat_engine.run.schedule.Schedule(kind="cosine")')
        if progress not in get_args(DisplayStyle):
            raise UserError(f"progress must be one of {', '.join(get_args(DisplayStyle))}; got {progress!r}")
        check_seed(seed)
        entry = METHODS[name]
        self.model = model
        self.method = name
        paper = method_as_published(name, epochs)
        if settings is not None:
            check_settings(settings, name)
        settings = paper.settings if settings is None else entry.filled_in(settings, paper.settings)
        entry.check_epochs(name, settings, epochs)
        self.settings = settings
        self.epsilon = epsilon
        self._progress: DisplayStyle = progress
        self._seed = seed
        self._time_limit = None if time_limit is None else parse_duration(_duration_text(time_limit))
        self._optimizer = optimizer or SGDSettings()
        self._awp, self._ema, self._swa = awp or paper.awp, ema or paper.ema, swa or paper.swa
        check_starts(self._awp, self._swa, epochs=epochs)
        self._select_by = entry.select_by
        target = choose_device(device)
        if execution == "graphed" and target.type != "cuda":
            raise UserError(
                f"execution graphed is one CUDA graph per step, and {target} has none; use auto, eager or compiled"
            )
        self._execution = _chosen_execution(execution, target)
        self._plan = TrainingPlan(
            epochs=epochs,
            learning_rate=self._optimizer.learning_rate,
            schedule=schedule or Schedule(kind="one-cycle", milestones=()),
            max_steps=max_steps,
            log_every=log_every,
        )
        shape = image_shape_of(data)
        self.num_classes = classes_of(model, shape)
        self._validation = own_validation(validation, self.num_classes)
        _check_kind("augmentation", augmentation, Augmentation, "dat_engine.data.Augmentation(padding=4, flip=True)")
        own = augmentation or own_augmentation(data, paper.data.augmentation, name)
        self._augmentation = own
        task = Task(
            num_classes=self.num_classes,
            image_shape=shape,
            epsilon=epsilon,
            augmentation=own,
            training_images=(lambda: data) if isinstance(data, ImageSource) else None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self._method = entry.create(self.settings, task)
        check_labels(own, self._method, name)
        self.loader = own_loader(
            data,
            num_classes=self.num_classes,
            batch_size=batch_size,
            augmentation=own,
            workers=workers,
            extra_views=self._method.extra_views,
            extra_augmentation=self._method.extra_augmentation,
            seed=seed,
            device=target,
            processes=ONE_PROCESS,
        )
        smallest = entry.smallest_batch(self.settings)
        if self.loader.batch_size < smallest:
            raise UserError(f"{name} needs batches of at least {smallest}; got {self.loader.batch_size}")
        self._temporary = run_dir is None
        if run_dir is None:
            temporary = tempfile.mkdtemp(prefix="dat-")
            # not a TemporaryDirectory, which warns when a trainer goes out of scope
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
            run_dir = Path(temporary) / "run"
        self.run_dir = Path(run_dir)
        self._device = target
        self._precision = Precision(name=precision) if isinstance(precision, str) else precision
        give_branches(model, entry.branches(self.settings), groups=len(self._method.layout))
        shares = len(entry.branches(self.settings)) > 1 and not has_batchnorm(model)
        self._loses = entry.without_branches if shares else None

    def fit(self, *, resume: bool = False) -> Fit:
        """Train to the end of the epochs; the network then holds the best epoch's weights (or their average), in eval mode.

        In the main thread Ctrl+C and SIGTERM let the step finish and save; ``fit(resume=True)`` goes on from there, as it
        does in a new process from a `run_dir` (with the same network, data and settings).

        Raises:
            UserError: a first batch that cannot be trained on, a `run_dir` that holds a run already, or none to resume.
            RunFailedError, NonFiniteError: the run began well and cannot go on.
        """
        step = self._step()
        described = self._described()
        path = self.run_dir
        run_directory = RunDirectory.resume(path) if resume else RunDirectory.create(path, described)
        with (
            run_directory as run,
            display_of(self._progress, ONE_PROCESS) as display,
            spoken_warnings(self._progress, ONE_PROCESS, display),
            Stop(time_limit=self._time_limit) as stop,
        ):
            display.start(self._title(step), epochs=self._plan.epochs)
            if self._loses is not None:
                warnings.warn(
                    f"{type(self.model).__name__} has no BatchNorm, so the branches of {self.method} share its normalisation: "
                    f"{self._loses}",
                    stacklevel=2,
                )
            trainer = EngineTrainer(
                step,
                self.loader,
                self._plan,
                run,
                display,
                identity={"own": described, "image_shape": list(self.loader.image_shape)},
                execute=GraphedStep(step) if self._execution == "graphed" else step,
                validate=validation_by(
                    self._validation,
                    step,
                    epsilon=self.epsilon,
                    batch_size=256,
                    seed=self._seed,
                    processes=ONE_PROCESS,
                    stop=stop,
                ),
                select_by=self._select_by,
            )
            if run.checkpoints.step_paths():
                trainer.resume()
            elif resume:
                begin_again(run, path, ONE_PROCESS)
            resume_by = "fit(resume=True) of the same trainer"
            ending = fit(trainer, stop, resume_by=resume_by)
            if ending in ("signal", "time limit"):
                say_stopped(display, ending, f"after {trainer.seconds:.0f} s of training; saved in {path}", resume_by)
            elif run.checkpoints.best_path.exists():
                selected, source = run.checkpoints.load_selected()
                self.model.load_state_dict(classifier_state(selected, self.model, source)[1])
            else:
                self.model.load_state_dict(step.evaluated_model.state_dict())
            self.model.eval()
            rows = run.metrics.epoch_rows()
        chosen: dict[str, Any] = next((row for row in reversed(rows) if row["best"]), {})
        accuracy = {
            name.removeprefix("validation_"): value for name, value in chosen.items() if name.startswith("validation_")
        }
        return Fit(ending=ending, history=rows, accuracy=accuracy)

    def _step(self) -> TrainingStep:
        return TrainingStep(
            self.model.to(self._device),
            self._method,
            optimizer=self._optimizer,
            precision=self._precision.on(self._device),
            weight_perturbation=weight_perturbation(self._awp),
            ema=self._ema,
            swa=self._swa,
            branching="grouped" if self._device.type == "cuda" else "folded",
            compiled=self._execution != "eager",
            seed=self._seed,
        )

    def _described(self) -> dict[str, Any]:
        """What a checkpoint of this training says that it is one of; a network is known by its class and size."""
        values = {
            "model": type(self.model).__name__,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "tensors": len(self.model.state_dict()),
            "method": self.method,
            "settings": asdict(self.settings),
            "epsilon": self.epsilon,
            "epochs": self._plan.epochs,
            "batch_size": self.loader.batch_size,
            "steps_per_epoch": self.loader.steps_per_epoch,
            # of dataclasses all the way down, whose kind counts besides their fields
            "augmentation": repr(self._augmentation),
            "optimizer": asdict(self._optimizer),
            "awp": asdict(self._awp),
            "ema": asdict(self._ema),
            "swa": asdict(self._swa),
            "schedule": asdict(self._plan.schedule),
            "precision": self._precision.name,
            "seed": self._seed,
        }
        return _json_types(values)

    def _title(self, step: TrainingStep) -> dict[str, object]:
        return {
            "model": type(self.model).__name__,
            "method": self.method,
            "device": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu",
            "precision": step.precision.name,
            "execution": self._execution,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "run": "temporary" if self._temporary else str(self.run_dir),
        }


def _check_kind(name: str, value: object, kind: Any, example: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise UserError(f"{name} is a {type(value).__name__}; give settings, as {example}, or None")


def _chosen_execution(execution: Execution, device: torch.device) -> Execution:
    if execution not in ("auto", "eager", "compiled", "graphed"):
        raise UserError(f"execution must be auto, eager, compiled or graphed; got {execution!r}")
    if execution == "auto":
        return "graphed" if device.type == "cuda" else "eager"
    return execution


def _duration_text(time_limit: str | float) -> str:
    return time_limit if isinstance(time_limit, str) else f"{time_limit:.6f}"


def _json_types(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _json_types(item) for name, item in value.items()}
    return [_json_types(item) for item in value] if isinstance(value, tuple | list) else value
