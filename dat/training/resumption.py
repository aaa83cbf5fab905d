"""What may change in a run that is resumed: only what the numbers do not depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dat.recipes import Recipe, differences
from dat.recipes.reading import recipe_from_dict
from dat_engine.errors import UserError

CHANGEABLE = ("log_every", "data.workers", "engine.execution")
"""Fields of a recipe that a resumed run may change. ``epochs`` may grow besides where the schedule is ``step``: its rate
at an epoch depends on the milestones alone, which stay where they are; the other kinds are stretched over all epochs."""


def refuse_other_numbers(before: Recipe, now: Recipe, path: object) -> None:
    """Raise unless the run at `path`, begun as `before`, goes on as `now` with the same numbers.

    Raises:
        UserError: names the first field that cannot change, what it was, and what to do.
    """
    one, other = before.to_dict(), now.to_dict()
    for name in ("name", "method"):
        if one[name] != other[name]:
            word = "recipe" if name == "name" else "method"
            raise UserError(
                f"{path} holds a run of {word} {one[name]}, not {other[name]}; leave the {word} out to resume it, or start "
                "a new run in another --run-dir"
            )
    if now.epochs < before.epochs:
        raise UserError(
            f"--epochs was {before.epochs} and can only grow in a resumed run; --max-steps ends a run earlier"
        )
    for name in differences(one, other):
        if name in CHANGEABLE or (name == "epochs" and before.schedule.kind == "step"):
            continue
        why = f" (the schedule {before.schedule.kind} stretches over all epochs)" if name == "epochs" else ""
        raise UserError(
            f"{flag_of(name, before.method)} was {_at(one, name)} and cannot change in a resumed run{why}; start a new run "
            f"in another --run-dir, by --config {path}/config.json with the same recipe"
        )


def same_experiment(saved: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's identity is a run's own, whatever they say of fields that the numbers do not depend on.

    Fields that the version which wrote `saved` did not know have their defaults.
    """
    try:
        return _comparable(saved) == _comparable(own)
    except (UserError, LookupError, TypeError, AttributeError):
        return False


def _comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    recipe = recipe_from_dict(identity["recipe"])
    values = recipe.to_dict()
    for name in (*CHANGEABLE, *(["epochs"] if recipe.schedule.kind == "step" else [])):
        *groups, field = name.split(".")
        inner = values
        for group in groups:
            inner = inner[group]
        del inner[field]
    return {**identity, "recipe": values}


def flag_of(name: str, method: str) -> str:
    """The flag of ``dat train`` that sets a field: ``settings.step_size`` -> ``--dat.step-size``."""
    if name.startswith("settings."):
        name = f"{method}.{name.removeprefix('settings.')}"
    return f"--{name.replace('_', '-')}"


def _at(values: Mapping[str, Any], name: str) -> Any:
    inner: Any = values
    for part in name.split("."):
        inner = inner[part]
    return inner
