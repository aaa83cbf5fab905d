"""A method as a caller names it: by its name, or by its settings."""

from __future__ import annotations

from typing import Any

from dat.methods import METHODS, method_entry
from dat_engine.errors import UserError


def name_and_settings(method: object) -> tuple[str, Any]:
    """``"dat"`` or ``DAT(beta=6)`` -> the method's name, and the settings that were given (None: its defaults).

    Raises:
        UserError: no method of that name, or something that is no method's settings.
    """
    if isinstance(method, str):
        method_entry(method)
        return method, None
    for name, entry in METHODS.items():
        if type(entry.settings) is type(method):
            return name, method
    given = method.__name__ if isinstance(method, type) else type(method).__name__
    kinds = ", ".join(f"{type(entry.settings).__name__}(…)" for entry in METHODS.values())
    raise UserError(f"method is {given}; give a method's name ({', '.join(METHODS)}) or its settings ({kinds})")
