"""Recipes: complete experiments by name."""

from dat.recipes.recipe import (
    RECIPES,
    DataSettings,
    EngineSettings,
    EvaluationSettings,
    ModelSettings,
    Recipe,
    differences,
    recipe,
    with_data_of,
    with_epochs,
    with_optimizer_kinds,
)

__all__ = [
    "RECIPES",
    "DataSettings",
    "EngineSettings",
    "EvaluationSettings",
    "ModelSettings",
    "Recipe",
    "differences",
    "recipe",
    "with_data_of",
    "with_epochs",
    "with_optimizer_kinds",
]
