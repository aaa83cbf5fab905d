"""Recipes in Python: a name, or a recipe, and other values of its fields as keywords."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any

from dat.methods import method_entry
from dat.methods.named import name_and_settings
from dat.recipes import Recipe
from dat.recipes import recipe as published_recipe
from dat.recipes.reading import check_settings, with_fields
from dat_engine.errors import UserError


def recipe(name: str, method: object = "dat", **fields: Any) -> Recipe:
    """The recipe called `name` for `method`, with other values of some fields.

    ``dat.recipe("cifar10-resnet18", epochs=30, model={"width": 16}, **{"dat.beta": 6})``: a field of a group is given in a
    dictionary of the group's name, or by its dotted name; the method's settings are the group of the method's name, or
    ``settings``. Milestones of the learning rate keep their share of another number of epochs. Every name is that of a
    flag of ``dat train``, with underscores.

    Args:
        name: `dat recipes` lists them.
        method: a method's name, or its settings, such as ``dat.methods.DAT(beta=6)``, which then count as they are, but that
            epochs (``dat.methods.SAR().start``) left at their default keep their share of the run.

    Raises:
        UserError: no recipe, method or field of that name, or a value of another type or out of range.
    """
    return chosen_recipe(name, method, fields)


def chosen_recipe(
    base: str | Recipe, method: object | None, fields: Mapping[str, Any], *, besides: Collection[str] = ()
) -> Recipe:
    """The recipe that `base` names or is, for `method` (None: a recipe's own, by name ``dat``), with other `fields`.

    Args:
        besides: names that a misspelt field may have meant instead.

    Raises:
        UserError: as for `recipe`; a recipe of another method than the one that is named.
    """
    if not isinstance(base, str | Recipe):
        raise UserError(f"recipe is a {type(base).__name__}; give a recipe's name, or what dat.recipe(name) returns")
    default = base.method if isinstance(base, Recipe) else "dat"
    name, settings = name_and_settings(default if method is None else method)
    if isinstance(base, str):
        base = published_recipe(base, name)
    elif base.method != name:
        raise UserError(
            f"the recipe is one for {base.method}, not {name}; make it for that method: "
            f'dat.recipe("{base.name}", method="{name}")'
        )
    settled: list[str] = []
    if settings is not None:
        check_settings(settings, name)
        entry, usual = method_entry(name), base.settings
        base = replace(base, settings=entry.filled_in(settings, usual))
        counted = [own for own in entry.epoch_settings if getattr(base.settings, own) == getattr(usual, own)]
        settled = [field.name for field in dataclass_fields(settings) if field.name not in counted]
    return with_fields(base, fields, besides=besides, settled=settled) if fields else base
