"""A comparison as a table: on a terminal by Rich, in a file as Markdown, with the same cells."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dat.sweep.comparison import Comparison, Figure, RunFigures


def table(comparison: Comparison) -> Group:
    """For people; what has to be said of the figures stands below."""
    result = Table(title=f"{comparison.name}: accuracy in percent", title_justify="left")
    for index, heading in enumerate(_headings(comparison)):
        result.add_column(heading, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for run in comparison.runs:
        result.add_row(*map(Text, _cells(comparison, run)))
    return Group(result, Text("\n".join(_notes(comparison))))


def markdown(comparison: Comparison) -> str:
    """The same as a page."""
    headings = _headings(comparison)
    lines = [
        f"# {comparison.name}",
        "",
        _row(headings),
        _row(["---", *("---:" for _ in headings[1:])]),
        *(_row(_cells(comparison, run)) for run in comparison.runs),
        "",
        *(f"- {note}" for note in _notes(comparison)),
    ]
    return "\n".join(lines) + "\n"


def figure_text(figure: Figure | None, digits: int) -> str:
    """``48.3 ± 0.4``; without a deviation of a single seed; a dash where there is none."""
    if figure is None:
        return "-"
    spread = "" if figure.deviation is None else f" ± {figure.deviation:.{digits}f}"
    return f"{figure.mean:.{digits}f}{spread}"


def seconds_digits(comparison: Comparison) -> int:
    """Digits behind the point, so that the cheapest run has three in all."""
    means = [run.seconds_per_epoch.mean for run in comparison.runs if run.seconds_per_epoch is not None]
    least = min(means, default=100.0)
    return 0 if least >= 100 else 1 if least >= 10 else 2


def _headings(comparison: Comparison) -> list[str]:
    from dat.evaluation import TITLES  # imports torch

    return ["run", *(TITLES.get(attack, attack) for attack in comparison.attacks), "s per epoch", "cost", "seeds"]


def _cells(comparison: Comparison, run: RunFigures) -> list[str]:
    cost = "-" if run.relative_cost is None else f"{run.relative_cost:.2f}x"
    return [
        run.name,
        *(figure_text(run.accuracy.get(attack), 1) for attack in comparison.attacks),
        figure_text(run.seconds_per_epoch, seconds_digits(comparison)),
        cost,
        str(len(run.seeds)),
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _notes(comparison: Comparison) -> list[str]:
    images = " or ".join(f"{count:,}" for count in comparison.test_images)
    several = any(len(run.seeds) > 1 for run in comparison.runs)
    lines = [
        f"Accuracy on {images} test images, {'mean ± standard deviation over seeds' if several else 'one seed'}.",
        f"Seconds per epoch: median over epochs, without validation, on {' and '.join(comparison.devices)}"
        + ("; times of different devices say nothing of the methods." if len(comparison.devices) > 1 else "."),
        f"Cost: seconds per epoch over those of {comparison.runs[0].name}.",
    ]
    if comparison.missing:
        lines.append(f"Not finished: {', '.join(comparison.missing)}.")
    return lines
