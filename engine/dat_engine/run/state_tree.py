"""A nested training state taken apart into JSON text and a flat dict of tensors, and put together again.

Dicts with str keys, lists, str, numbers, bool and None stand in the JSON as themselves; `{"$tensor": name}` is a
tensor, `{"$tuple": [...]}` a tuple and `{"$dict": [[key, value], ...]}` a dict that a JSON object cannot hold
(int keys, as in the state of an optimizer, or keys that begin with "$").
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

DTYPE_NAMES = {  # what a checkpoint can hold, with safetensors' name for it
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def take_apart(state: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """JSON text of `state`, and its tensors on the CPU and contiguous, named by their keys joined with "/".

    Subclasses of dict, str, int and float are stored as their base. Raises TypeError, naming the place, for what is
    neither a tensor of DTYPE_NAMES nor one of the types above.
    """
    tensors: dict[str, Tensor] = {}
    return json.dumps(_encode(state, (), tensors), separators=(",", ":")), tensors


def put_together(text: str, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `take_apart`. Raises ValueError, TypeError, LookupError or RecursionError for malformed text."""
    return _decode(json.loads(text), tensors)


def _encode(value: object, keys: tuple[str | int, ...], tensors: dict[str, Tensor]) -> object:
    """`value` as JSON; its tensors are put into `tensors`, on the CPU and contiguous."""
    if isinstance(value, Tensor):
        name = _unused_name("/".join(map(str, keys)), tensors)
        tensors[name] = _plain_tensor(value, keys)
        return {"$tensor": name}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, tuple):
        return {"$tuple": _encode_items(value, keys, tensors)}
    if isinstance(value, list):
        return _encode_items(value, keys, tensors)
    if isinstance(value, Mapping):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TypeError(f"{_spell(keys)} has the key {key!r}; keys in a checkpoint are str or int")
        pairs = [(key, _encode(entry, (*keys, key), tensors)) for key, entry in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$dict": pairs}
    raise TypeError(
        f"{_spell(keys)} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, dicts, "
        "lists, tuples, str, int, float, bool and None"
    )


def _encode_items(values: Iterable[object], keys: tuple[str | int, ...], tensors: dict[str, Tensor]) -> list[object]:
    return [_encode(entry, (*keys, index), tensors) for index, entry in enumerate(values)]


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_decode(entry, tensors) for entry in value["$tuple"])
    pairs = value["$dict"] if "$dict" in value else value.items()
    return {key: _decode(entry, tensors) for key, entry in pairs}


def _plain_tensor(tensor: Tensor, keys: tuple[str | int, ...]) -> Tensor:
    if tensor.dtype not in DTYPE_NAMES or tensor.layout != torch.strided or tensor.device.type == "meta":
        raise TypeError(
            f"{_spell(keys)} is a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}; "
            "a checkpoint holds dense real, integer and bool tensors"
        )
    return tensor.detach().resolve_neg().to("cpu").contiguous()


def _unused_name(name: str, tensors: Mapping[str, Tensor]) -> str:
    """`name`, or with a number behind it where a key that contains "/" (or the header's own entry) has taken it."""
    candidate, count = name, 1
    while candidate in tensors or candidate == "__metadata__":
        count += 1
        candidate = f"{name}#{count}"
    return candidate


def _spell(keys: tuple[str | int, ...]) -> str:
    return "state" + "".join(f"[{key!r}]" for key in keys)
