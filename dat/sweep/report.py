"""The comparison of a sweep on the screen and in its folder."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from dat.sweep.comparison import Comparison, compare, write_file, write_json
from dat.sweep.file import Sweep
from dat.sweep.picture import can_draw, render
from dat.sweep.table import markdown, table

_WIDE = 200


def open_console() -> Console:
    """A console that folds no table where there is no terminal to fold it for."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def write_comparison(sweep: Sweep, folder: Path, console: Console) -> Comparison:
    """Compare what is finished of `sweep` in its `folder`; print the table, and write it there with its figures and picture.

    Without matplotlib there is no picture, and a line says so; where nothing is finished nothing is written.

    Raises:
        UserError: a run is of another recipe or cannot be read, or the comparison cannot be written.
    """
    comparison = compare(sweep, folder)
    if not comparison.attacks:
        console.print(f"none of the {len(sweep.runs)} runs is finished", highlight=False)
        return comparison
    console.print(table(comparison))
    write_json(comparison, folder / "comparison.json")
    write_file(folder / "comparison.md", markdown(comparison).encode())
    if can_draw():
        write_file(folder / "comparison.svg", render(comparison))
    else:
        console.print("no picture without matplotlib: pip install 'dat-engine[sweep]'", highlight=False, markup=False)
    return comparison
