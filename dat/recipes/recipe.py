"""A recipe is a complete experiment, a frozen value every field of which is a flag of ``dat train``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any, Literal

import tyro

from dat.methods import METHODS
from dat.seed import check_seed
from dat_engine.data_kinds import AugmentationName, LoaderKind, OnDamaged
from dat_engine.errors import UserError
from dat_engine.model.precision import Precision
from dat_engine.run.schedule import Schedule
from dat_engine.step.optimizer_settings import OptimizerSettings, SGDSettings, optimizer_settings
from dat_engine.step.switches import Switches
from dat_engine.step.weight_settings import AWPSettings, EMASettings, SWASettings


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """Which images, and how they are fed."""

    name: str = "cifar10"
    """Data set; `dat recipes` lists them."""
    loader: LoaderKind = "auto"
    """resident: the whole data set in device memory; dali; torchvision: a plain DataLoader; auto: resident where the data
    fit, else DALI, else torchvision."""
    workers: int | None = None
    """Threads of DALI or processes of torchvision; None: the cores there are."""
    image_size: int | None = None
    """Edge of the images of a folder, in pixels; None: the data set's own."""
    resize: int | None = None
    """What the shorter edge of a file is scaled to before the crop; None: the data set's own."""
    on_damaged: OnDamaged = "fatal"
    """A file that cannot be decoded stops the run, or is left out ("skip") with a warning that names it."""
    crop: Literal["padded", "resized"] = "padded"
    """Random crop after padding with zeros, or random resized crop (image files only)."""
    padding: int = 4
    """Zeros around the image before a padded crop."""
    flip: bool = True
    """Random horizontal flips."""
    augmentation: AugmentationName = "standard"
    """standard: crop and flip; none: neither; cutout, cutmix, autoaugment: that after crop and flip; idbh: flip, CropShift in
    place of the padded crop, ColorShape, random erasing."""
    validation: int = 1000
    """Training images held out for choosing the best checkpoint; 0 keeps the last one instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """The classifier."""

    name: str = "resnet18"
    width: int | None = None
    """Channels of the first stage, or of a transformer's tokens; None: the published width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings(Switches):
    """How the step is run; the numbers are the same up to rounding, the speed is not."""

    execution: Literal["auto", "eager", "compiled", "graphed"] = "auto"
    """torch.compile, or torch.compile and one CUDA graph for the whole step; auto: graphed on a GPU (compiled
    with many processes), eager on the CPU."""
    branching: Literal["auto", "folded", "grouped"] = "auto"
    """Attack on two branches: two folded weight sets, or one batch with an affine per group; auto: folded on the CPU, where
    it was measured to be faster, and with fused epilogues; else grouped."""
    synchronise_batchnorm: bool = False
    """With many processes, normalise by the union of their batches instead of by each process's own."""

    def __post_init__(self) -> None:
        if self.fused_epilogues and self.branching == "grouped":
            raise UserError(
                "engine.fused_epilogues needs folded convolutions, and branching grouped has an affine of each group behind "
                "each; use branching folded or auto"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """What is measured on the test split when training ends."""

    attacks: str = "natural,fgsm,pgd20"
    """Comma-separated, out of natural, fgsm, pgd20, pgd100, cw, aa."""
    limit: int | None = None
    """Number of test images; None: all."""
    batch_size: int = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One experiment. `name` and `method` are chosen on the command line first; they set the other defaults."""

    name: tyro.conf.Suppress[str]
    method: tyro.conf.Suppress[str]
    settings: tyro.conf.Suppress[Any]
    """The method's own settings, a frozen dataclass of its file in `dat.methods`."""
    epsilon: float = 8 / 255
    """L-infinity radius of the threat model, images being in [0, 1]; used in training, validation and evaluation."""
    epochs: int = 150
    batch_size: int = 128
    seed: int = 0
    limit_train: int | None = None
    """Train on this many images, classes balanced; None: all."""
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimizer: OptimizerSettings = field(default_factory=SGDSettings)
    schedule: Schedule = field(default_factory=Schedule)
    awp: AWPSettings = field(default_factory=AWPSettings)
    ema: EMASettings = field(default_factory=EMASettings)
    swa: SWASettings = field(default_factory=SWASettings)
    precision: Precision = field(default_factory=Precision)
    engine: EngineSettings = field(default_factory=EngineSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise UserError(
                f"epsilon must lie in (0, 1], images being in [0, 1]; got {self.epsilon:g}"
                + (f" (did you mean {self.epsilon:g}/255 = {self.epsilon / 255:.4f}?)" if self.epsilon > 1 else "")
            )
        for name in ("epochs", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("evaluation.batch_size", "evaluation.limit", "model.width", "data.image_size"):
            group, field_name = name.split(".")
            value = getattr(getattr(self, group), field_name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; got {value}")
        check_seed(self.seed, below=2**63 - 2**32)
        smallest = METHODS[self.method].smallest_batch(self.settings)
        if self.batch_size < smallest:
            raise UserError(
                f"{self.method} works on the images of a batch together; use a batch_size of at least {smallest}, not "
                f"{self.batch_size}"
            )
        if self.precision.name == "fp64":
            raise UserError("fp64 is for checks of the step, not for training; use auto, fp32, bf16 or fp16")
        if self.limit_train is not None and self.limit_train < 1:
            raise UserError(f"limit_train must be at least 1; got {self.limit_train}")
        if self.data.validation < 0:
            raise UserError(f"data.validation must not be negative; got {self.data.validation}")
        if self.data.workers is not None and self.data.workers < 0:
            raise UserError(f"data.workers must not be negative; got {self.data.workers}")

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; `dat.recipes.reading.recipe_from_dict` reads it back."""
        return _plain(asdict(self))


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two recipes, as dictionaries, differ."""
    found: list[str] = []
    for name in sorted(set(one) | set(other)):
        left, right = one.get(name), other.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            found.append(f"{prefix}{name}")
    return found


def field_at(values: Mapping[str, Any], name: str) -> Any:
    """What a recipe, as a dictionary, holds under a dotted name; None where it has no such field."""
    inner: Any = values
    for part in name.split("."):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return inner


def epoch_fields(method: str) -> tuple[str, ...]:
    """Dotted names of the fields that are counted in epochs, and keep their share of a run whose number of epochs changes."""
    own = (f"settings.{name}" for name in METHODS[method].epoch_settings)
    return ("schedule.milestones", "schedule.warmup_epochs", "awp.start", "swa.start", *own)


def with_epochs(base: Recipe, epochs: int, *, keep: Collection[str] = ()) -> Recipe:
    """`base` for another number of epochs, what is counted in epochs (`epoch_fields`) keeping its share of the run.

    Args:
        keep: dotted names of what was asked for itself and stays.
    """
    share = epochs / base.epochs
    groups: dict[str, Any] = {
        "schedule": base.schedule.rescaled(from_epochs=base.epochs, to_epochs=epochs),
        "awp": replace(base.awp, start=base.awp.start * share),
        "swa": base.swa if base.swa.start is None else replace(base.swa, start=base.swa.start * share),
        "settings": METHODS[base.method].rescaled(base.settings, from_epochs=base.epochs, to_epochs=epochs),
    }
    for name in set(keep).intersection(epoch_fields(base.method)):
        group, field_name = name.split(".")
        own: dict[str, Any] = {field_name: getattr(getattr(base, group), field_name)}
        groups[group] = replace(groups[group], **own)
    return replace(base, epochs=epochs, **groups)


def with_values(base: Recipe, values: Mapping[str, Any]) -> Recipe:
    """`base` with other values of some fields, by their dotted names ("optimizer.learning_rate").

    Raises:
        UserError: a name that no field has.
    """
    for name, value in values.items():
        base = _with_value(base, name.split("."), value, name)
    return base


def _with_value(holder: Any, path: list[str], value: Any, name: str) -> Any:
    first, *rest = path
    if first not in {own.name for own in dataclass_fields(holder)}:
        raise UserError(f"a recipe has no field {name}")
    return replace(holder, **{first: _with_value(getattr(holder, first), rest, value, name) if rest else value})


def with_optimizer_kinds(base: Recipe, kinds: Mapping[str, str]) -> Recipe:
    """`base` with default settings of other kinds of optimizers, by dotted names of its fields ("optimizer", …).

    Raises:
        UserError: an unknown kind.
    """
    for name, kind in kinds.items():
        *group, leaf = name.split(".")
        holder = getattr(base, group[0]) if group else base
        if kind != getattr(holder, leaf).kind:
            base = with_values(base, {name: optimizer_settings(kind)()})
    return base


def with_data_of(base: Recipe, data: DataSettings, *, keep: Collection[str] = ()) -> Recipe:
    """`base` with other settings of its data; where they crop in another way or not, what was published for the old crop goes.

    Args:
        keep: the method's settings that were asked for themselves.
    """
    changed = replace(base, data=data)
    if _crop(data) == _crop(base.data):
        return changed
    entry = METHODS[base.method]
    freed = {name: getattr(entry.settings, name) for name in entry.with_published_crop if name not in keep}
    return replace(changed, settings=replace(base.settings, **freed)) if freed else changed


def _crop(data: DataSettings) -> tuple[str, int] | None:
    return None if data.augmentation == "none" else (data.crop, data.padding)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
