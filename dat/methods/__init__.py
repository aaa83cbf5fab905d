"""Training methods on one protocol (`dat_engine.step.method.Method`): a file, its settings, and one line here for each."""

from __future__ import annotations

from dat.methods.base import MethodEntry, Task
from dat.methods.settings import dat, pgd_at, plain, trades
from dat_engine.errors import unknown_name

__all__ = ["METHODS", "MethodEntry", "Task", "method_entry"]

METHODS: dict[str, MethodEntry] = {
    "dat": dat.ENTRY,
    "pgd-at": pgd_at.ENTRY,
    "trades": trades.ENTRY,
    "plain": plain.ENTRY,
}


def method_entry(name: str) -> MethodEntry:
    """The method called `name`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
