"""A comparison as a picture: accuracy against the cost of an epoch, natural beside robust."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

from dat.sweep.comparison import Comparison, RunFigures

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")


def can_draw() -> bool:
    """Whether matplotlib, which is optional, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def render(comparison: Comparison) -> bytes:
    """The content of an SVG file; imports matplotlib."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    from dat.evaluation import TITLES  # imports torch

    attacks = [attack for attack in ("natural", comparison.robust) if attack in comparison.attacks]
    canvas = Canvas(figsize=(5.2 * len(attacks), 4.2), layout="constrained")
    axes = canvas.subplots(1, len(attacks), squeeze=False)[0]
    for axis, attack in zip(axes, attacks, strict=True):
        _scatter(axis, comparison, str(attack))
        axis.set_title(f"{TITLES.get(str(attack), attack)} accuracy", loc="left")
        axis.set_xlabel("seconds per epoch")
        axis.set_ylabel("percent")
        axis.spines[["top", "right"]].set_visible(False)
    several = any(len(run.seeds) > 1 for run in comparison.runs)
    bars = "; bars: standard deviation over seeds" if several else ""
    canvas.suptitle(f"{comparison.name}, {' and '.join(comparison.devices)}{bars}", fontsize="small")
    content = io.BytesIO()
    # text as text: the labels can be read and searched; no date, so that the same figures give the same file
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": comparison.name}):
        canvas.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _scatter(axis: Any, comparison: Comparison, attack: str) -> None:
    """A point for every run that has both; names stand above and below in turn, by cost, so that neighbours' do not meet."""
    drawn = [run for run in comparison.runs if attack in run.accuracy and run.seconds_per_epoch is not None]
    for rank, run in enumerate(sorted(drawn, key=_cost)):
        accuracy, seconds = run.accuracy[attack], run.seconds_per_epoch
        assert seconds is not None
        colour = _COLOURS[comparison.runs.index(run) % len(_COLOURS)]
        axis.errorbar(
            seconds.mean,
            accuracy.mean,
            xerr=seconds.deviation or None,
            yerr=accuracy.deviation or None,
            fmt="o",
            color=colour,
            capsize=3,
        )
        axis.annotate(
            run.name,
            (seconds.mean, accuracy.mean),
            xytext=(6, 6 if rank % 2 == 0 else -6),
            textcoords="offset points",
            va="bottom" if rank % 2 == 0 else "top",
            color=colour,
        )
    axis.margins(0.18)
    axis.set_xlim(left=max(0.0, axis.get_xlim()[0]))


def _cost(run: RunFigures) -> float:
    return 0.0 if run.seconds_per_epoch is None else run.seconds_per_epoch.mean
