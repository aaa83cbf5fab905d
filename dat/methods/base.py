"""How a method is registered: what recipes and the command line know of it before torch is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dat_engine.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodEntry:
    """A method as recipes see it."""

    implementation: str | type[Any]
    """Class of the method, or ``"module:Class"``, imported when it is first asked for: built-in methods do not import torch."""
    settings: Any
    """Default settings: a frozen dataclass; each of its fields becomes a flag of ``dat train``."""
    summary: str
    """What it does, in a line, for lists and help."""
    epochs: int = 200
    milestones: tuple[int, ...] = (100, 150)
    """Usual length on CIFAR and the epochs at which the learning rate drops tenfold."""
    select_by: Literal["pgd20", "natural"] = "pgd20"
    """Validation accuracy that the best checkpoint maximises; PGD-20's would pick noise where nothing is robust."""
    without_branches: str | None = None
    """What is lost, with its source, where the classifier has no BatchNorm to give branches to; said once per run."""
    smallest_batch: Callable[[Any], int] = lambda settings: 1
    """Images without which a step cannot be made under these settings (2 where a network of the method normalises over the
    batch)."""
    branches: Callable[[Any], tuple[str, ...]] = lambda settings: ("base",)
    """BatchNorm branches that the classifier needs under these settings, the default first."""
    for_image_size: Callable[[Any, int], Any] = lambda settings, image_size: settings
    """The settings as they suit images of that many pixels a side, where the published ones do not."""
    with_published_crop: Mapping[str, Any] = field(default_factory=dict)
    """Settings whose published values belong to data that are cropped as the paper's are (padding 4): with another crop they
    have their defaults."""
    lengths: Mapping[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    """Epochs and milestones by data set, where its paper gives others than those above."""
    recipe_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a recipe that its paper sets, by dotted names such as "optimizer.learning_rate"; what is counted in epochs is
    so for `epochs` of them."""
    defaults_by_recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same for single recipes, by their names, where its paper gives others; "settings.beta" is one of the method's own."""
    epoch_settings: tuple[str, ...] = ()
    """Settings that are counted in epochs, for `epochs` of them: a run of another length rescales them. Each says when
    something begins, before the end of the run."""
    epoch_ends: tuple[str, ...] = ()
    """Those of `epoch_settings` that say when something is complete instead, at the end of the run at the latest."""

    def rescaled(self, settings: Any, *, from_epochs: int, to_epochs: int) -> Any:
        """The settings for another number of epochs: what is counted in epochs keeps its share of the run."""
        if from_epochs == to_epochs:
            return settings
        values = {name: getattr(settings, name) for name in self.epoch_settings}
        return replace(settings, **{name: value * to_epochs / from_epochs for name, value in values.items()})

    def filled_in(self, settings: Any, usual: Any) -> Any:
        """`settings`, but that what is counted in epochs and has its default is as the `usual` settings have it.

        Those are of a run of another length: a default that was published for `epochs` of them is not what was asked for.
        """
        left = [name for name in self.epoch_settings if getattr(settings, name) == getattr(self.settings, name)]
        return replace(settings, **{name: getattr(usual, name) for name in left})

    def check_epochs(self, name: str, settings: Any, epochs: int) -> None:
        """Refuse what a run of `name` over so many epochs would not reach.

        Raises:
            UserError: names the setting.
        """
        for setting in self.epoch_settings:
            value = getattr(settings, setting)
            ends = setting in self.epoch_ends
            if value > epochs or (value == epochs and not ends):
                raise UserError(
                    f"{name}.{setting} is {value:g} epochs and the run ends after {epochs}; choose "
                    f"{'at most' if ends else 'a start below'} {epochs}, or more epochs"
                )

    @property
    def create(self) -> type[Any]:
        """Class of the method; called with its settings and the task, and a subclass of `dat_engine.step.method.Method`."""
        if isinstance(self.implementation, type):
            return self.implementation
        module, _, name = self.implementation.partition(":")
        created: type[Any] = getattr(importlib.import_module(module), name)
        return created
