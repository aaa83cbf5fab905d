"""The run directory of one of a sweep's runs, looked at without torch: how far it is, and whether it is that run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from dat.recipes import Recipe, differences, field_at
from dat.recipes.reading import recipe_from_dict
from dat.sweep.file import Sweep
from dat.training.resumption import CHANGEABLE
from dat_engine.errors import UserError
from dat_engine.run.json_file import read_json_object
from dat_engine.run.metrics import MetricsLog

RunState = Literal["missing", "unfinished", "finished"]


def state_of(path: Path) -> RunState:
    """missing: nothing was begun; unfinished: to be resumed; finished: trained and evaluated."""
    if (path / "summary.json").exists():
        return "finished"
    return "unfinished" if (path / "config.json").exists() else "missing"


def refuse_others(sweep: Sweep, folder: Path) -> None:
    """Raise unless what is in the sweep's `folder` in its runs' places are its runs, fields apart that no number depends on.

    Raises:
        UserError: names the run and the first field that differs.
    """
    for run in sweep.runs:
        _refuse_another(folder / run.folder, run.recipe)


def _refuse_another(path: Path, recipe: Recipe) -> None:
    if state_of(path) == "missing":
        return
    source = path / "config.json"
    begun = recipe_from_dict(read_object(source).get("recipe", {}), source=str(source)).to_dict()
    wanted = recipe.to_dict()
    for name in differences(begun, wanted):
        if name not in CHANGEABLE:
            was, now = field_at(begun, name), field_at(wanted, name)
            raise UserError(
                f"{path} holds a run with {name} {was}, and the sweep wants {now}; use another --out, or take that run away"
            )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file of a run directory.

    Raises:
        UserError: it cannot be read or is damaged.
    """
    return read_json_object(path, remedy="restore it, or take the run away")


def epoch_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that end an epoch in the metrics.jsonl of the run at `path`; none where there is no such file."""
    return MetricsLog(path / "metrics.jsonl").epoch_rows()
