"""Training methods on one protocol (`dat_engine.step.method.Method`): a folder and one line here for each.

A folder's `__init__` holds the method's settings, which the command line reads and which therefore import nothing heavy; its
`method` holds what the method does.
"""

from __future__ import annotations

from dat.methods import dat, pgd_at, plain, trades
from dat.methods.base import MethodEntry
from dat.methods.dat import DAT
from dat.methods.pgd_at import PGDAT
from dat.methods.plain import Plain
from dat.methods.trades import TRADES
from dat_engine.errors import unknown_name

__all__ = ["DAT", "METHODS", "PGDAT", "TRADES", "MethodEntry", "Plain", "method_entry"]

METHODS: dict[str, MethodEntry] = {
    "dat": dat.ENTRY,
    "pgd-at": pgd_at.ENTRY,
    "trades": trades.ENTRY,
    "plain": plain.ENTRY,
}


def method_entry(name: str) -> MethodEntry:
    """The method called `name`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
