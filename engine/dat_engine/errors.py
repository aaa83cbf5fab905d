"""The error that is the user's to mend, and the nearest known name to one that is not known.

Imports nothing heavy: the settings that the command line reads raise it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["RunFailedError", "UserError", "did_you_mean", "unknown_name"]


class UserError(ValueError):
    """Wrong input: one sentence that says what was given, what is needed and what to do.

    Every other exception that reaches the command line, plain ValueErrors included, is taken for a defect of this project.
    """


class RunFailedError(RuntimeError):
    """A run that began well and cannot go on: nothing is wrong with the input; one sentence that says what to do."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` with the nearest of the known names, or nothing where none is near."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.6)
    return f"; did you mean {by_lower_case[near[0]]}?" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is no `kind` (recipe, method, model, ...) of the `known` ones."""
    known = list(known)
    return UserError(
        f"no {kind} is called {name!r}{did_you_mean(name, known) or '; choose one of ' + ', '.join(known)}"
    )
