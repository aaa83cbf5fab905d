"""What recipes of several data sets have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from dat.methods import METHODS
from dat.recipes.recipe import DataSettings, ModelSettings, Recipe, with_epochs, with_values
from dat_engine.model.precision import Precision
from dat_engine.run.schedule import Schedule
from dat_engine.step.optimizer_settings import AdamWSettings, SGDSettings

CreateRecipe = Callable[[str, str], Recipe]
"""Name of the recipe and of the method -> the recipe."""


def published(data: DataSettings, model: str) -> CreateRecipe:
    """The method's published settings; on CIFAR these are the paper's and its authors' code's."""

    def create(name: str, method: str) -> Recipe:
        entry = METHODS[method]
        settings = entry.settings
        if data.crop == "padded" and entry.with_published_crop:
            settings = replace(settings, **entry.with_published_crop)
        epochs, milestones = entry.lengths.get(data.name, (entry.epochs, entry.milestones))
        usual = Recipe(
            name=name,
            method=method,
            settings=settings,
            epochs=entry.epochs,
            data=data,
            model=ModelSettings(name=model),
            schedule=Schedule(milestones=entry.milestones),
            precision=Precision(name="auto", channels_last=True),
        )
        made = with_epochs(with_method_defaults(usual), epochs)
        return replace(made, schedule=replace(made.schedule, milestones=milestones))

    return create


def with_method_defaults(usual: Recipe, *, but: Collection[str] = ()) -> Recipe:
    """What the method's paper sets, over a recipe of the method's usual length.

    Args:
        but: groups of fields that are the recipe's own whatever the method: "optimizer", "schedule", "ema".
    """
    entry = METHODS[usual.method]
    values = {**entry.recipe_defaults, **entry.defaults_by_recipe.get(usual.name, {})}
    return with_values(usual, {name: value for name, value in values.items() if name.split(".")[0] not in but})


def method_as_published(method: str, epochs: int) -> Recipe:
    """The method's settings and what its paper sets besides, of no recipe's data: optimizer and schedule are the usual ones."""
    entry = METHODS[method]
    usual = Recipe(name="own", method=method, settings=entry.settings, epochs=entry.epochs)
    return with_epochs(with_method_defaults(usual, but=("optimizer", "schedule")), epochs)


def large_images(data: DataSettings) -> CreateRecipe:
    """Images of 224 pixels with torchvision's ResNet-50; nothing is published for DAT at this size."""

    def create(name: str, method: str) -> Recipe:
        base = with_epochs(published(data, "resnet50")(name, method), 90)
        return replace(
            base,
            settings=METHODS[method].for_image_size(base.settings, 224),
            epsilon=4 / 255,
            schedule=Schedule(milestones=(30, 60, 80)),
            optimizer=SGDSettings(weight_decay=1e-4),
        )

    return create


def without_batchnorm(data: DataSettings, model: str, *, like: CreateRecipe, learning_rate: float) -> CreateRecipe:
    """`like` with a network that has no BatchNorm, trained as such networks are: AdamW, warm-up, cosine, clipping.

    Nothing is published for DAT with these networks; DAT shares their normalisation between its branches.
    """

    def create(name: str, method: str) -> Recipe:
        base = like(name, method)
        return replace(
            base,
            data=data,
            model=ModelSettings(name=model),
            optimizer=AdamWSettings(learning_rate=learning_rate, clip_norm=1.0),
            schedule=Schedule(kind="cosine", milestones=(), warmup_epochs=base.epochs / 20),
        )

    return create
