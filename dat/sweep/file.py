"""A sweep as a file says it: recipes, ablations and seeds, each run a whole recipe before any of them is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dat.methods import method_entry
from dat.recipes import RECIPES, Recipe, recipe
from dat.recipes.mapping_file import read_mapping
from dat.recipes.reading import with_fields
from dat.sweep.options import SweepOptions, options_from_dict
from dat_engine.errors import UserError, did_you_mean, unknown_name

_GROUPS = ("name", "recipe", "method", "fields", "seeds", "runs", "options", "slurm")
_OF_A_RUN = ("name", "recipe", "method", "fields")
_OWN = ("comparison.json", "comparison.md", "comparison.svg", "submitit")
"""What the sweep itself writes beside its runs' folders."""
_NAME = re.compile(r"[\w+=,@-][\w.+=,@-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRun:
    """One run of a sweep: a recipe with its seed, under the name that its other seeds share."""

    name: str
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """Its run directory, from the sweep's folder."""
        return Path(self.name) / f"seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Runs to be compared. `runs` are in the order in which they are run: all names with the first seed, then the next."""

    name: str
    runs: tuple[SweepRun, ...]
    options: SweepOptions = field(default_factory=SweepOptions)
    """What the file says of where and how; flags override it."""
    slurm: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of submitit's Slurm executor."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the runs, in the file's order."""
        return tuple(dict.fromkeys(run.name for run in self.runs))

    def folder(self, options: SweepOptions) -> Path:
        """Where the sweep goes."""
        return options.out or Path("runs") / self.name


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep's file, YAML or (by its suffix) JSON.

    ``runs`` lists the runs by ``method``, ``recipe``, ``fields`` and ``name``; a method, recipe or fields beside ``runs`` are
    those of all of them. Every run is made for every one of the ``seeds`` (default: 0). A run's own fields change the
    recipe that the common ones have made. A run without a name has its method's (and recipe's, where it names one).

    Raises:
        UserError: no such file, or a recipe, method or field that is not known, a value that does not fit, two runs of one
            name; one sentence that names file and run.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the sweep's file")
    values = read_mapping(path, kind="sweep", give="a file with recipe, seeds and runs; docs/guide/sweep.md shows one")
    source = str(path)
    _refuse_unknown(values, _GROUPS, source, "a sweep")
    name = _text(values, "name", source) or path.stem
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{source}: the sweep's name is that of a folder, and {name!r} cannot be one; use letters, digits, . _ -"
        )
    runs = values.get("runs")
    if not isinstance(runs, list) or not runs:
        raise UserError(f"{source} lists no runs; add, for instance: runs: [{{method: pgd-at}}, {{method: dat}}]")
    recipes = _recipes(runs, values, source)
    seeds = _seeds(values.get("seeds", [0]), source)
    return Sweep(
        name=name,
        runs=tuple(
            SweepRun(name=name, seed=seed, recipe=replace(recipe, seed=seed))
            for seed in seeds
            for name, recipe in recipes.items()
        ),
        options=options_from_dict(_mapping(values, "options", source), source),
        slurm=_mapping(values, "slurm", source),
    )


def _recipes(runs: list[Any], common: Mapping[str, Any], source: str) -> dict[str, Recipe]:
    """Name of a run -> its recipe, without a seed of its own."""
    found: dict[str, Recipe] = {}
    for number, run in enumerate(runs, start=1):
        where = f"{source}: run {number}"
        if not isinstance(run, Mapping):
            raise UserError(f"{where} must hold method, recipe, fields or name; got {run!r}")
        _refuse_unknown(run, _OF_A_RUN, where, "a run")
        named = _text(run, "recipe", where) or _text(common, "recipe", source)
        method = _text(run, "method", where) or _text(common, "method", source)
        if named is None or method is None:
            lacks = "recipe" if named is None else "method"
            raise UserError(f"{where} has no {lacks}, and the sweep names none for all runs; add {lacks}: NAME")
        name = _text(run, "name", where) or ("-".join((named, method)) if "recipe" in run else method)
        if not _NAME.fullmatch(name):
            raise UserError(f"{where}: the name {name!r} cannot be a folder's; use letters, digits and . _ + - = , @")
        if name.lower() in _OWN:
            raise UserError(f"{where} is called {name}, as is what the sweep itself writes; give it another name")
        if name.lower() in map(str.lower, found):  # the folders may lie where case makes no difference
            before = "so is one" if name in found else "one that differs by case alone stands"
            raise UserError(f"{where} is called {name}, and {before} before it; give each run a name of its own")
        found[name] = _recipe(named, method, common, run, source, f"{source}: run {name}")
    return found


def _recipe(
    name: str, method: str, common: Mapping[str, Any], run: Mapping[str, Any], source: str, where: str
) -> Recipe:
    if name not in RECIPES:
        raise UserError(f"{where}: {unknown_name('recipe', name, RECIPES)}")
    try:
        method_entry(method)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    base = recipe(name, method)
    own = _mapping(run, "fields", where)
    # of two numbers of epochs the first would round the milestones that the second rescales
    shared = {
        field: value
        for field, value in _mapping(common, "fields", source).items()
        if field != "epochs" or field not in own
    }
    for fields, place in ((shared, source), (own, where)):
        if "seed" in fields:
            raise UserError(
                f"{place}: every run is made for every one of the sweep's seeds; give seeds: [{fields['seed']}]"
            )
        base = with_fields(base, fields, source=where) if fields else base
    return base


def _seeds(value: Any, source: str) -> list[int]:
    if (
        not isinstance(value, list)
        or not value
        or any(type(seed) is not int or not 0 <= seed < 2**62 for seed in value)
    ):
        raise UserError(f"{source}: seeds must be a list of whole numbers from 0 on, such as [0, 1, 2]; got {value!r}")
    if len(set(value)) < len(value):
        raise UserError(f"{source}: seeds has a number twice: {value}; name each once")
    return value


def _mapping(values: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    value = values.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{source}: {name} must hold names and values; got {value!r}")
    return value


def _text(values: Mapping[str, Any], name: str, source: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{source}: {name} must be text; got {value!r}")
    return value


def _refuse_unknown(values: Mapping[str, Any], known: tuple[str, ...], source: str, what: str) -> None:
    for name in values:
        if name not in known:
            near = did_you_mean(str(name), known) or f"; there are {', '.join(known)}"
            raise UserError(f"{source}: {what} has no {name}{near}")
