"""What a run says of its learning rate's milestones before it begins."""

from __future__ import annotations

from dat.recipes import RECIPES, Recipe
from dat.recipes import recipe as published_recipe
from dat_engine.run.display import Display


def say_when_rate_drops(recipe: Recipe, steps_per_epoch: int, display: Display) -> None:
    """Note where milestones were rescaled to another number of epochs; warn where they do what nobody expects."""
    schedule = recipe.schedule
    usual = published_recipe(recipe.name, recipe.method) if recipe.name in RECIPES else recipe
    if schedule.kind == "step" and schedule.milestones and recipe.epochs != usual.epochs:
        rescaled = usual.schedule.rescaled(from_epochs=usual.epochs, to_epochs=recipe.epochs)
        if schedule.milestones == rescaled.milestones:
            display.note(
                f"the learning rate drops at epoch {schedule.drops()} of {recipe.epochs}, "
                f"in proportion to {usual.schedule.drops()} of {usual.epochs}"
            )
    for concern in schedule.concerns(epochs=recipe.epochs, steps_per_epoch=steps_per_epoch):
        display.warn(concern)
