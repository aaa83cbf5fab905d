"""Tiny-ImageNet: the published settings."""

from __future__ import annotations

from dat.recipes.families import CreateRecipe, published
from dat.recipes.recipe import DataSettings

RECIPES: dict[str, CreateRecipe] = {
    "tinyimagenet-resnet18": published(DataSettings(name="tinyimagenet"), "resnet18"),
}
