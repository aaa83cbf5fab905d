"""What recipes of several data sets have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dat.methods import METHODS
from dat.recipes.recipe import DataSettings, ModelSettings, Recipe
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
        return Recipe(
            name=name,
            method=method,
            settings=settings,
            epochs=epochs,
            data=data,
            model=ModelSettings(name=model),
            schedule=Schedule(milestones=milestones),
            precision=Precision(name="auto", channels_last=True),
        )

    return create


def large_images(data: DataSettings) -> CreateRecipe:
    """Images of 224 pixels with torchvision's ResNet-50; nothing is published for DAT at this size."""

    def create(name: str, method: str) -> Recipe:
        base = published(data, "resnet50")(name, method)
        return replace(
            base,
            settings=METHODS[method].for_image_size(base.settings, 224),
            epsilon=4 / 255,
            epochs=90,
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
