"""scikit-learn's handwritten digits: a robust classifier in a minute, without a download."""

from __future__ import annotations

from dat.methods import METHODS
from dat.recipes.families import CreateRecipe, with_method_defaults
from dat.recipes.recipe import DataSettings, EvaluationSettings, ModelSettings, Recipe, with_epochs
from dat_engine.run.schedule import Schedule
from dat_engine.step.optimizer_settings import SGDSettings


def _digits(name: str, method: str) -> Recipe:
    usual = Recipe(
        name=name,
        method=method,
        settings=METHODS[method].settings,
        epsilon=0.1,
        epochs=METHODS[method].epochs,
        batch_size=64,
        data=DataSettings(name="digits", padding=1, flip=False, validation=100),
        model=ModelSettings(name="resnet8"),
        optimizer=SGDSettings(learning_rate=0.3),
        schedule=Schedule(kind="one-cycle", milestones=()),
        evaluation=EvaluationSettings(attacks="natural,fgsm,pgd20,pgd100,cw"),
        log_every=10,
    )
    # of 500 steps an average that looks back over thousands would be the plain mean
    return with_epochs(with_method_defaults(usual, but=("optimizer", "schedule", "ema")), 25)


RECIPES: dict[str, CreateRecipe] = {"digits-resnet": _digits}
