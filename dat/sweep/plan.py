"""What a sweep would do: its runs, and how far each of them is."""

from __future__ import annotations

from pathlib import Path

from dat.sweep.file import Sweep
from dat.sweep.run_folder import state_of

_WORDS = {"missing": "begin", "unfinished": "resume", "finished": "skip: finished"}


def print_plan(sweep: Sweep, folder: Path) -> None:
    """Print a line for each run: what would be done with it."""
    width = max(len(str(run.folder)) for run in sweep.runs)
    for run in sweep.runs:
        word = _WORDS[state_of(folder / run.folder)]
        recipe = run.recipe
        print(f"{run.folder!s:{width}}  {recipe.name} {recipe.method}, {recipe.epochs} epochs: {word}")
    print(f"{len(sweep.runs)} runs, in {folder}")
