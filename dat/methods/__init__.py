"""Training methods on one protocol (`dat_engine.step.method.Method`): a folder and one line here for each.

A folder's `__init__` holds the method's settings, which the command line reads and which therefore import nothing heavy; its
`method` holds what the method does. A method that lives elsewhere is made known by `register`.
"""

from __future__ import annotations

import re

from dat.methods import dajat, dat, idbh, mart, pgd_at, plain, sar, st, trades
from dat.methods.base import MethodEntry
from dat.methods.dajat import DAJAT
from dat.methods.dat import DAT
from dat.methods.idbh import IDBH
from dat.methods.mart import MART
from dat.methods.pgd_at import PGDAT
from dat.methods.plain import Plain
from dat.methods.sar import SAR
from dat.methods.st import ST
from dat.methods.trades import TRADES
from dat_engine.errors import UserError, unknown_name

__all__ = [
    "DAJAT",
    "DAT",
    "IDBH",
    "MART",
    "METHODS",
    "PGDAT",
    "SAR",
    "ST",
    "TRADES",
    "MethodEntry",
    "Plain",
    "method_entry",
    "register",
]

METHODS: dict[str, MethodEntry] = {
    "dat": dat.ENTRY,
    "pgd-at": pgd_at.ENTRY,
    "trades": trades.ENTRY,
    "mart": mart.ENTRY,
    "st": st.ENTRY,
    "sar": sar.ENTRY,
    "dajat": dajat.ENTRY,
    "idbh": idbh.ENTRY,
    "plain": plain.ENTRY,
}


def register(name: str, entry: MethodEntry) -> None:
    """Make a method known by `name` to recipes, `dat.train` and, in this process, the command line.

    A run's checkpoints name their method: whoever loads one registers the method first.

    Raises:
        UserError: a name that is taken or cannot be a flag's, settings that cannot be flags.
    """
    if name in METHODS:
        raise UserError(f"there is a method called {name} already; choose another name")
    if re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) is None:
        raise UserError(
            f"{name!r} cannot name a method; use lower-case letters, digits and single hyphens, as in my-at"
        )
    settings, kind = entry.settings, getattr(entry.settings, "__dataclass_params__", None)
    if isinstance(settings, type) or kind is None or not kind.frozen:
        raise UserError(
            f"the settings of {name} are {settings!r}; give an object of a frozen dataclass, @dataclass(frozen=True), each "
            "of whose fields has a default"
        )
    METHODS[name] = entry


def method_entry(name: str) -> MethodEntry:
    """The method called `name`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
