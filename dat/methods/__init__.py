"""Training methods on one protocol (`dat_engine.step.method.Method`): one file and one line here for each."""

from __future__ import annotations

from dat.methods import dat, pgd_at, plain, trades
from dat.methods.base import MethodEntry, Task

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
        raise ValueError(f"no method is called {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
