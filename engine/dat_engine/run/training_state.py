"""What a training state must look like before anything of it is taken up: one look, one sentence.

A checkpoint's checksum says that its bytes are those that were written, not that somebody's bytes are a state of this run.
Version 2 of the state has `players` and `optimizers` by name; version 1, of dat-engine 0.1.0, wrote no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dat_engine.run.checkpoint import CheckpointError, CheckpointFormatError

STATE_VERSION = 2

_SUMS = {"loss", "accuracy", "skipped", "counted"}


def check_training_state(state: Mapping[str, Any], own: Mapping[str, Any], path: object) -> None:
    """Raise unless `state`, read from `path`, can be taken up by the trainer whose own state is `own`.

    Compared are keys, types, dtypes and shapes of what is read back. Free are: the number of processes, the length of random
    generators' states (it is the kind of device that decides), and settings of optimizers other than the learning rate's kind.

    Raises:
        CheckpointFormatError: a state of another version.
        CheckpointError: names the first difference.
    """
    check_state_version(state, path)
    difference = first_difference(_read_back(state), _read_back(own)) or _wrong_processes(state, own)
    if difference is not None:
        raise CheckpointError(
            f"{path} does not fit this run: {difference}; it belongs to another recipe, or was not written by dat-engine: "
            "put the run's own checkpoint in its place, or start a new run in another --run-dir"
        )


def check_state_version(state: Mapping[str, Any], path: object) -> None:
    """Raise CheckpointFormatError for a training state of another version."""
    version = state.get("state_version")
    if version == STATE_VERSION and not isinstance(version, bool):
        return
    if "training" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of a training run")
    if version is None:
        raise CheckpointFormatError(
            f"{path} was written by dat-engine 0.1.0, whose training state this version cannot go on from; go on with the "
            "version that wrote it, or start a new run in another --run-dir (`dat evaluate` reads it)"
        )
    raise CheckpointFormatError(
        f"{path} holds a training state of version {version!r}, and this dat-engine reads version {STATE_VERSION}; use the "
        "version of dat-engine that wrote it, or a newer one"
    )


def first_difference(found: object, expected: object, where: str = "") -> str | None:
    """The first place where `found` is built otherwise than `expected`, in words; None where they are built alike.

    Dicts need the same keys, lists and tuples the same length, tensors the same shape and dtype, or, where they hold one
    number, the same kind of number; None stands for a number that is not there yet.
    """
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            return f"{where or 'it'} is {_kind(found)}, not a dict"
        for key in expected:
            if key not in found:
                return f"{_join(where, key)} is missing"
        for key in found:
            if key not in expected:
                return f"{_join(where, key)} is unknown here"
        pairs = ((found[key], value, _join(where, key)) for key, value in expected.items())
    elif isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            count = f"with {len(found)} entries" if isinstance(found, list | tuple) else "of another kind"
            return f"{where} is {_kind(found)} {count}, not a list of {len(expected)}"
        pairs = (
            (one, other, f"{where}[{index}]") for index, (one, other) in enumerate(zip(found, expected, strict=True))
        )
    else:
        return _leaf_difference(found, expected, where)
    for one, other, place in pairs:
        difference = first_difference(one, other, place)
        if difference is not None:
            return difference
    return None


def _leaf_difference(found: object, expected: object, where: str) -> str | None:
    if isinstance(expected, Tensor) and expected.ndim > 0:
        if not isinstance(found, Tensor):
            return f"{where} is {_kind(found)}, not a tensor"
        if found.shape != expected.shape:
            return f"{where} has shape {list(found.shape)}, not {list(expected.shape)}"
        if found.dtype != expected.dtype:
            return f"{where} holds {_plain(found.dtype)}, not {_plain(expected.dtype)}"
        return None
    # one number, as a tensor or as Python's: devices and optimizers differ in which
    wanted, given = _number_kind(expected), _number_kind(found)
    if expected is None and given in ("float", "int", None):
        return None
    if given != wanted:
        return f"{where} is {_kind(found)}, not {_kind(expected)}"
    return None


def _read_back(state: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a state that are loaded as they stand."""
    training = state.get("training")
    if isinstance(training, Mapping):
        training = {name: value for name, value in training.items() if name != "generator"}
        optimizers = training.get("optimizers")
        if isinstance(optimizers, Mapping):
            training["optimizers"] = {name: _loaded_of_optimizer(value) for name, value in optimizers.items()}
    return {"position": state.get("position"), "metrics_lines": state.get("metrics_lines"), "training": training}


def _loaded_of_optimizer(state: object) -> object:
    """Settings that another version of torch may spell otherwise are the run's own, not the checkpoint's."""
    if not isinstance(state, Mapping) or not isinstance(state.get("param_groups"), list):
        return state
    groups = [
        {name: group[name] for name in ("lr", "params") if name in group} if isinstance(group, Mapping) else group
        for group in state["param_groups"]
    ]
    return {"state": state.get("state"), "param_groups": groups}


def _wrong_processes(state: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """What is wrong with the processes' own parts, and with the values that a type does not tell."""
    position = state["position"]
    for name in ("epoch", "step_in_epoch", "step", "seconds"):
        if not position[name] >= 0:
            return f"position/{name} is {position[name]!r}"
    generators = {"training/generator": state["training"].get("generator")}
    parts = state.get("processes")
    if not isinstance(parts, list) or not parts:
        return f"processes is {_kind(parts)}, not a list of at least one"
    for index, part in enumerate(parts):
        where = f"processes[{index}]"
        if not isinstance(part, Mapping) or set(part) != set(own["processes"][0]):
            return f"{where} does not hold {', '.join(own['processes'][0])}"
        difference = _leaf_difference(part["statistics"], own["processes"][0]["statistics"], f"{where}/statistics")
        if difference is not None:
            return difference
        generators[f"{where}/generator"] = part["generator"]
        for name in ("epoch_sums", "recent_sums"):
            sums = part[name]
            if not isinstance(sums, Mapping) or (sums and not sums.keys() >= _SUMS) or set(sums) != set(parts[0][name]):
                return f"{where}/{name} does not hold the sums of a step's figures"
            for key, value in sums.items():
                if not isinstance(value, Tensor) or value.ndim or not value.dtype.is_floating_point:
                    return f"{where}/{name}/{key} is {_kind(value)}, not one floating-point number"
    for where, generator in generators.items():
        if not isinstance(generator, Tensor) or generator.dtype != torch.uint8 or generator.ndim != 1:
            return f"{where} is {_kind(generator)}, not the state of a random generator"
    return None


def _number_kind(value: object) -> str | None:
    if isinstance(value, Tensor):
        if value.ndim:
            return f"tensor of {value.ndim} dimensions"
        return "float" if value.dtype.is_floating_point else "bool" if value.dtype == torch.bool else "int"
    return None if value is None else type(value).__name__


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, Tensor):
        return f"a tensor of {_plain(value.dtype)} with shape {list(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _join(where: str, key: object) -> str:
    return f"{where}/{key}" if where else str(key)
