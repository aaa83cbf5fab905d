"""What may change in a run that is resumed: only what the numbers do not depend on, and the rate of one that diverged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dat.recipes import Recipe, differences, field_at
from dat.recipes.reading import recipe_from_dict
from dat_engine.errors import UserError
from dat_engine.run.metrics import MetricsLog
from dat_engine.run.unequal import first_unequal

RATE = "optimizer.learning_rate"
CHANGEABLE = ("log_every", "data.workers", "engine.execution")
"""Fields of a recipe that a resumed run may change. ``epochs`` may grow besides where the schedule is ``step``: its rate
at an epoch depends on the milestones alone, which stay where they are; the other kinds are stretched over all epochs.
`RATE` may be lowered in a run that ended because its steps were not finite: resumed at the same rate it would end so again."""


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
        was, wanted = field_at(one, name), field_at(other, name)
        if name == RATE and ended_non_finite(Path(str(path))):
            if wanted < was:
                continue
            raise UserError(
                f"{flag_of(name, before.method)} was {was} when the run's steps became non-finite, and can only be "
                f"lowered; got {wanted}"
            )
        why = f" (the schedule {before.schedule.kind} stretches over all epochs)" if name == "epochs" else ""
        raise UserError(
            f"{flag_of(name, before.method)} was {was} and cannot change in a resumed run{why}; start a new run "
            f"in another --run-dir, by --config {path}/config.json with the same recipe"
        )


def ended_non_finite(run: Path) -> bool:
    """Whether the run at `run` ended last because too many steps in a row were not finite."""
    try:
        rows = MetricsLog(run / "metrics.jsonl").rows()
    except OSError:
        return False
    return bool(rows) and rows[-1].get("ending") == "non-finite"


def experiment_difference(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """What makes a checkpoint's identity another experiment's than the run's own, in words; None where nothing does.

    Fields that the numbers do not depend on are free, fields that the version which wrote `saved` did not know have their
    defaults, and the learning rate may have been higher: it was lowered after the steps became non-finite.
    """
    try:
        one, other = _comparable(saved), _comparable(own)
        if saved["recipe"]["optimizer"]["learning_rate"] < own["recipe"]["optimizer"]["learning_rate"]:
            return f"{RATE} is lower than this run's"
    except UserError as error:
        return f"its recipe cannot be read: {error}"
    except (LookupError, TypeError, AttributeError, ValueError):
        return "it does not say of which"
    return first_unequal(one, other)


def _comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    recipe = recipe_from_dict(identity["recipe"])
    values = recipe.to_dict()
    for name in (*CHANGEABLE, RATE, *(["epochs"] if recipe.schedule.kind == "step" else [])):
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
