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
    recipe_from_dict,
    with_epochs,
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
    "recipe_from_dict",
    "with_epochs",
]
