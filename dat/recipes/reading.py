"""Recipes out of dictionaries and files: a run's config.json, a checkpoint, a JSON or YAML file of the user's."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, is_dataclass, replace
from dataclasses import fields as dataclass_fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from dat.methods import method_entry
from dat.recipes import Recipe, recipe, with_data_of, with_epochs
from dat.recipes.mapping_file import read_mapping
from dat.recipes.number_text import parse_number
from dat_engine.errors import UserError, did_you_mean
from dat_engine.step.optimizer_settings import optimizer_settings

_RECIPE_FILES = "a run's config.json, or a file with name, method and fields"


def recipe_from_dict(values: Mapping[str, Any], *, source: str = "this recipe") -> Recipe:
    """Read back what `Recipe.to_dict` wrote; a field that an older version did not write has its default.

    Args:
        source: what the sentence of an error begins with: the file's name.

    Raises:
        UserError: a field that is not known, or whose value is of another type or out of range.
    """
    for name in ("name", "method"):
        if not isinstance(values.get(name), str):
            raise UserError(f"{source} has no {name}, which every recipe has")
    method_entry(values["method"])
    place = _Place(method=values["method"], source=f"{source}: ")
    return _settings(Recipe, {"settings": {}, **values}, None, "", place)


def read_recipe_file(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a file, and what it says about where to run it (`run` of a config.json; empty where it says nothing).

    The file is a run's config.json, or JSON or YAML of the same form, the `recipe` alone included. It must name the
    recipe (`name`); what it leaves out is as that recipe and the `method` (default: dat) have it.

    Raises:
        UserError: no such file, no recipe in it, a field that is not known or whose value is wrong.
    """
    document = read_mapping(path, kind="recipe", give=_RECIPE_FILES)
    source = str(path)
    values = document.get("recipe", document)
    run = document.get("run", {}) if "recipe" in document else {}
    if not isinstance(values, Mapping) or not isinstance(run, Mapping):
        raise UserError(f"{source} holds no recipe; give {_RECIPE_FILES}")
    name, method = values.get("name"), values.get("method", "dat")
    if not isinstance(name, str) or not isinstance(method, str):
        raise UserError(f"{source} does not name its recipe; add a line such as name: cifar10-resnet18")
    fields = {key: value for key, value in values.items() if key not in ("name", "method")}
    return with_fields(recipe(name, method), fields, source=source), dict(run)


def with_fields(
    base: Recipe,
    given: Mapping[str, Any],
    *,
    source: str | None = None,
    besides: Collection[str] = (),
    settled: Collection[str] = (),
) -> Recipe:
    """`base` with other values of the fields that are `given`, and of those that follow from them.

    Fields of a group are ``{"model": {"width": 16}}`` or ``{"model.width": 16}``, or the group's whole dataclass; the
    method's settings are the group ``settings``, or one of the method's own name (``{"dat.beta": 6}``, as its flags are).
    Another number of epochs takes along what is counted in epochs (milestones, the starts of averaging and of a method),
    another crop frees what was published for the old one, unless they are given themselves.

    Args:
        source: what the sentence of an error begins with: the file's name.
        besides: names that a misspelt one may have meant instead of a field.
        settled: the method's settings that `base` has because they were asked for.

    Raises:
        UserError: a field that is not known, or whose value is of another type or out of range.
    """
    start = "" if source is None else f"{source}: "
    nested = _nested_fields(given, base.method, start)
    settings = nested.get("settings", {})
    read = with_exactly(base, {**nested, "epochs": base.epochs}, source=source, besides=besides)
    if "epochs" in nested:
        epochs = _value(int, nested["epochs"], f"{start}epochs")
        asked = [f"{group}.{name}" for group in ("schedule", "awp", "swa") for name in _named(nested.get(group, {}))]
        asked += [f"settings.{name}" for name in (*_named(settings), *settled)]
        try:
            read = with_epochs(read, epochs, keep=asked) if epochs > 0 else replace(read, epochs=epochs)
        except UserError as error:
            raise UserError(f"{start}{error}") from None
    return with_data_of(replace(read, data=base.data), read.data, keep=[*_named(settings), *settled])


def with_exactly(
    base: Recipe, given: Mapping[str, Any], *, source: str | None = None, besides: Collection[str] = ()
) -> Recipe:
    """`with_fields`, but that nothing follows from what is given: for a run that goes on, whose schedule is what it is."""
    start = "" if source is None else f"{source}: "
    place = _Place(method=base.method, source=start, besides=tuple(besides))
    return cast(Recipe, _settings(Recipe, _nested_fields(given, base.method, start), base, "", place))


def _named(group: Any) -> list[str]:
    """Names of the fields that a dictionary gives of a group, or the whole dataclass."""
    return list(group) if isinstance(group, Mapping) else [field.name for field in dataclass_fields(group)]


def _nested_fields(given: Mapping[str, Any], method: str, source: str) -> dict[str, Any]:
    """Dotted names as groups within groups; the group of the method's name is its settings."""
    nested: dict[str, Any] = {}
    for dotted, value in given.items():
        *groups, name = str(dotted).split(".")
        if (groups or [name])[0].replace("_", "-") == method:
            groups, name = (["settings", *groups[1:]], name) if groups else ([], "settings")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise UserError(f"{source}{dotted} is given beside the whole of {group}; give one of the two")
        if isinstance(value, Mapping) and isinstance(inner.get(name), dict):
            inner[name] = {**inner[name], **value}
        elif name in inner:
            raise UserError(f"{source}{dotted} is given twice; give it once")
        else:
            inner[name] = dict(value) if isinstance(value, Mapping) else value
    return nested


def check_settings(settings: Any, method: str) -> None:
    """Refuse settings of a method that were made in Python with a value that a field's type has no room for.

    Raises:
        UserError: names the field and what it takes.
    """
    values = {field.name: getattr(settings, field.name) for field in dataclass_fields(settings)}
    _settings(type(settings), values, None, f"{method}.", _Place(method=method, source=""))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Of which method's recipe a field is read, how a sentence about it begins, and what else its name may have meant."""

    method: str
    source: str
    besides: tuple[str, ...] = ()


def _settings(kind: Any, values: Any, base: Any, prefix: str, place: _Place) -> Any:
    """A dataclass of type `kind` out of a dictionary; what that lacks comes from `base`, or is the type's default."""
    if not isinstance(values, Mapping):
        raise UserError(f"{place.source}{prefix.rstrip('.')} must hold fields; got {values!r}")
    hints = _hints(kind)
    for name in values:
        if name not in hints:
            near = did_you_mean(f"{prefix}{name}", [*field_names(place.method), *place.besides])
            raise UserError(f"{place.source}a recipe has no field {prefix}{name}{near}")
    arguments = {}
    for field in dataclass_fields(kind):
        name = field.name
        inherited = None if base is None else getattr(base, name)
        if name not in values:
            if base is not None:
                arguments[name] = inherited
            elif field.default is MISSING and field.default_factory is MISSING:
                raise UserError(f"{place.source.removesuffix(': ')} lacks {prefix}{name}")
            continue
        nested = _nested(kind, name, values[name], inherited, place)
        if nested is None:
            arguments[name] = _value(hints[name], values[name], f"{place.source}{prefix}{name}")
        elif type(values[name]) is nested:
            arguments[name] = values[name]
        else:
            own = inherited if type(inherited) is nested else None
            arguments[name] = _settings(nested, values[name], own, f"{prefix}{name}.", place)
    try:
        return kind(**arguments)
    except UserError as error:
        raise UserError(f"{place.source}{error}") from None


def _nested(kind: Any, name: str, values: Any, inherited: Any, place: _Place) -> Any:
    """The dataclass that a field holds, among several the one of the `kind` that is named; None for a plain value."""
    if kind is Recipe and name == "settings":
        return type(method_entry(place.method).settings)
    hint = _hints(kind)[name]
    choices = [choice for choice in (get_args(hint) or (hint,)) if is_dataclass(choice)]
    if not choices:
        return None
    if type(values) in choices:
        return type(values)
    if len(choices) == 1:
        return choices[0]
    if isinstance(values, Mapping) and "kind" in values:
        return optimizer_settings(values["kind"])
    return choices[0] if inherited is None else type(inherited)


def field_names(method: object) -> list[str]:
    """Dotted names of all fields of a recipe, those of the method's settings included where `method` names one."""
    names = [name for name in _names_below(Recipe, "") if name != "settings"]
    if isinstance(method, str):
        names += _names_below(type(method_entry(method).settings), "settings.")
    return names


def _names_below(kind: Any, prefix: str) -> list[str]:
    names = []
    for name, hint in _hints(kind).items():
        choices = [choice for choice in (get_args(hint) or (hint,)) if is_dataclass(choice)]
        names += [below for choice in choices for below in _names_below(choice, f"{prefix}{name}.")]
        names += [] if choices else [f"{prefix}{name}"]
    return list(dict.fromkeys(names))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclass_fields(kind)}


def _value(hint: Any, value: Any, name: str) -> Any:
    """`value`, out of JSON or YAML, as the type of its field."""
    fitting = _fitting(hint, value)
    if fitting is _UNFIT:
        raise UserError(f"{name} must be {_described(hint)}; got {value!r}")
    return fitting


_UNFIT = object()


def _fitting(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        return value if value in arguments else _UNFIT
    if origin in (Union, types.UnionType):
        fits = (_fitting(argument, value) for argument in arguments)
        return next((fit for fit in fits if fit is not _UNFIT), _UNFIT)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return _UNFIT
        items = tuple(_fitting(arguments[0], item) for item in value)
        return _UNFIT if _UNFIT in items else items
    if hint is float:
        return _number(value)
    if hint is type(None):
        return value if value is None else _UNFIT
    if not isinstance(hint, type):  # of a method that lives elsewhere: a list of numbers, a function
        return value
    is_bool = isinstance(value, bool)  # which is no whole number
    return value if isinstance(value, hint) and (not is_bool or hint is bool) else _UNFIT


def _number(value: Any) -> Any:
    if isinstance(value, str):  # a fraction; and 1e-4, which YAML takes for text
        try:
            return parse_number(value)
        except ValueError:
            return _UNFIT
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _UNFIT


def _described(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, arguments))
    if origin is tuple:
        return f"a list, each item {_described(arguments[0])}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, str(hint))
