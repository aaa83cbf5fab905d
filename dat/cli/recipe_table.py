"""``dat recipes``: a table as wide as its names need, the same on a terminal and in a pipe."""

from __future__ import annotations

from dat.methods import METHODS
from dat.recipes import RECIPES, recipe

_HEADINGS = ("recipe", "data", "model", "batch", "epochs (dat)", "epsilon")


def print_recipes() -> None:
    """Print every recipe with what sets it apart, and the methods."""
    rows = [_HEADINGS, *(_row(name) for name in RECIPES)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\nMethods, each for every recipe (--method):")
    for name, entry in METHODS.items():
        print(f"  {name:8} {entry.summary}")


def _row(name: str) -> tuple[str, ...]:
    values = recipe(name)
    return (
        name,
        values.data.name,
        values.model.name,
        str(values.batch_size),
        str(values.epochs),
        _as_fraction(values.epsilon),
    )


def _as_fraction(epsilon: float) -> str:
    """``8/255`` where it is a whole number of grey levels, else the number."""
    levels = epsilon * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-9 else f"{epsilon:.4g}"
