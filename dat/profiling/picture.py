"""A profile as a picture: one stacked bar of phases per subject."""

from __future__ import annotations

import io

from dat.profiling.step_profile import Profile
from dat.profiling.table import significant
from dat_engine.profile.ranges import RANGES
from dat_engine.profile.trace import OTHER

PICTURE_TYPES = (".svg", ".png")

_COLOURS = dict(
    zip((*RANGES, OTHER), ("#999999", "#56b4e9", "#cc79a7", "#d55e00", "#0072b2", "#009e73", "#dddddd"), strict=True)
)


def render(profile: Profile, *, title: str, suffix: str) -> bytes:
    """The content of an image file of one of `PICTURE_TYPES`; imports matplotlib."""
    from matplotlib.figure import Figure  # optional, and slow to import

    names = list(profile.methods)
    methods = list(profile.methods.values())
    figure = Figure(figsize=(9, 1.6 + 0.55 * len(names)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(names)
    for phase, colour in _COLOURS.items():
        widths = [1e3 * method.phases[phase] for method in methods]
        axes.barh(names, widths, left=left, label=phase, color=colour)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    timed = [1e3 * method.step_seconds for method in methods]
    axes.scatter(timed, names, marker="d", color="black", zorder=3, label="timed step")
    for name, method, end in zip(names, methods, map(max, left, timed), strict=True):
        ratio = "" if method.ratio_to_reference is None else f", {method.ratio_to_reference:.2f}x PGD-AT"
        axes.annotate(
            f"{significant(method.epoch_seconds)} s per epoch{ratio}",
            (end, name),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_xlim(0, 1.45 * max(*left, *timed))
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    axes.set_xlabel(
        "milliseconds per step; bars: device time of an uncaptured step's phases"
        if profile.device == "cuda"
        else "milliseconds per step; bars: phases under the profiler"
    )
    handles, labels = axes.get_legend_handles_labels()
    first = labels.index(RANGES[0])
    figure.legend(
        handles[first:] + handles[:first], labels[first:] + labels[:first], loc="outside upper center", ncols=4
    )
    axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format=suffix.removeprefix("."), dpi=150)
    return content.getvalue()
