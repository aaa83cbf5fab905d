"""Names and values out of a JSON or YAML file, each name given once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dat_engine.errors import UserError


class _GivenTwiceError(Exception):
    """A mapping has a name twice; the readers of both kinds of file let the last of the two win."""

    def __init__(self, name: str, where: str = "") -> None:
        super().__init__(f"gives {name} twice{where}; give it once")


def read_mapping(path: Path, *, kind: str, give: str) -> Mapping[str, Any]:
    """What a JSON file (by its suffix) or a YAML file holds; of a run directory its config.json.

    Args:
        kind: what the sentence of an error calls that.
        give: which files would do instead.

    Raises:
        UserError: no such file, not JSON or YAML, a name that is given twice, or something else than names and values.
    """
    if path.is_dir():
        path = path / "config.json"  # a run directory stands for its own
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read the {kind} {path}: {reason}") from None
    try:
        document = _from_json(text, path) if path.suffix == ".json" else _from_yaml(text, path)
    except _GivenTwiceError as error:
        raise UserError(f"{path} {error}") from None
    if not isinstance(document, Mapping):
        raise UserError(f"{path} holds no {kind}; give {give}")
    return document


def _from_json(text: str, path: Path) -> Any:
    def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in pairs:
            if name in values:
                raise _GivenTwiceError(name)
            values[name] = value
        return values

    try:
        return json.loads(text, object_pairs_hook=once_each)
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def _from_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_names(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _check_names(root: Any) -> None:
    """Before anything is made of YAML's nodes: a merge (``<<``) then puts names into them that may be given again."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if node.id == "sequence":
            waiting += node.value
        elif node.id == "mapping":
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                waiting.append(value)
                if key.id != "scalar":
                    continue
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    where = f"in line {line}" if lines[name] == line else f"in lines {lines[name]} and {line}"
                    raise _GivenTwiceError(key.value, f", {where}")
                lines[name] = line
