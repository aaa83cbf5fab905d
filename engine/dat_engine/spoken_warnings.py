"""Python's warnings in the command's own voice: one line each, without file and line number, each text once."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["spoken_as", "spoken_by"]


class _Speaker:
    """Stands in for warnings.showwarning; `said` are the texts that were shown, by this one or those before it."""

    def __init__(self, say: Callable[[str], None], said: set[str]) -> None:
        self._say = say
        self.said = said

    def __call__(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if text not in self.said:
            self.said.add(text)
            self._say(text)


@contextmanager
def spoken_by(say: Callable[[str], None]) -> Iterator[None]:
    """Within, every warning that Python's filters let through is handed to `say` as one line, each text once.

    Nested, the inner one speaks, and does not repeat what the outer one has said.
    """
    before = warnings.showwarning
    said = before.said if isinstance(before, _Speaker) else set()
    warnings.showwarning = _Speaker(say, said)
    try:
        yield
    finally:
        warnings.showwarning = before


def spoken_as(command: str) -> Any:
    """`spoken_by` on standard error: ``dat train: warning: ...``; under torchrun with the number of the process."""
    rank = os.environ.get("RANK", "0")
    name = command if rank == "0" else f"{command} (process {rank})"
    return spoken_by(lambda text: print(f"{name}: warning: {text}", file=sys.stderr))
