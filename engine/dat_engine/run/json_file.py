"""JSON objects out of the files of a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dat_engine.errors import UserError


def read_json_object(path: Path, *, remedy: str = "restore it or start a new run") -> dict[str, Any]:
    """What the file holds.

    Args:
        remedy: what to do where it is damaged.

    Raises:
        UserError: it cannot be read or is damaged.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; {remedy}")
    return document
