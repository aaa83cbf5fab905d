"""Recipes: complete experiments by name, one file for each data set's."""

from dat.methods import method_entry
from dat.recipes import cifar, digits, imagenet, tinyimagenet
from dat.recipes.families import CreateRecipe, method_as_published
from dat.recipes.recipe import (
    AWPSettings,
    DataSettings,
    EMASettings,
    EngineSettings,
    EvaluationSettings,
    ModelSettings,
    Recipe,
    SWASettings,
    differences,
    epoch_fields,
    field_at,
    with_data_of,
    with_epochs,
    with_optimizer_kinds,
)
from dat_engine.errors import unknown_name

__all__ = [
    "RECIPES",
    "AWPSettings",
    "DataSettings",
    "EMASettings",
    "EngineSettings",
    "EvaluationSettings",
    "ModelSettings",
    "Recipe",
    "SWASettings",
    "differences",
    "epoch_fields",
    "field_at",
    "method_as_published",
    "recipe",
    "with_data_of",
    "with_epochs",
    "with_optimizer_kinds",
]

RECIPES: dict[str, CreateRecipe] = {
    **digits.RECIPES,
    **cifar.RECIPES,
    **tinyimagenet.RECIPES,
    **imagenet.RECIPES,
}


def recipe(name: str, method: str = "dat") -> Recipe:
    """The recipe called `name`, for `method`.

    Raises:
        UserError: no recipe or no method of that name.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    method_entry(method)
    return RECIPES[name](name, method)
