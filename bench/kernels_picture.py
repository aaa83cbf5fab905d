"""Draw the result of `make bench`: speed relative to eager PyTorch, per operation and shape.

    python -m bench.kernels_picture bench/results/kernels_cpu.json bench/results/kernels_cpu.svg

The suffix of the second file (svg, png, pdf) decides the format. Background transparent, colours for light and dark pages.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # before pyplot: no window system is needed
from matplotlib import pyplot, ticker

INK = "#7d8590"
"""Readable on white and on GitHub's dark #0d1117."""
BAR_COLOURS = {"eager": "#a0a8b2", "torch.compile": "#d29922", "native": "#2f81f7", "triton": "#3fb950"}
GAP = 0.7
BAR_NAMES = {
    "eager": "eager, second formulation",
    "torch.compile": "torch.compile",
    "native": "kernels, native CPU backend",
    "triton": "kernels, Triton backend",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    kind: str
    """A key of `BAR_COLOURS`."""
    speed: float
    """How many times as fast as the group's baseline."""
    remark: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    title: str
    bars: tuple[Bar, ...]


def groups_of(document: dict[str, Any]) -> list[Group]:
    """One group per operation and shape, in the order measured. The reference backend and other memory formats stay in the
    JSON file, for the picture's sake."""
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    for benchmark in document["benchmarks"]:
        info = benchmark["extra_info"]
        measured.setdefault(benchmark["group"], {})[info["subject"]] = info
    return [Group(title=title, bars=tuple(_bars(infos))) for title, infos in measured.items()]


def _bars(infos: dict[str, dict[str, Any]]) -> Iterator[Bar]:
    for subject, info in infos.items():
        kind, _, remark = subject.partition(", ")
        if subject == info["baseline"] or (kind != "eager" and remark) or kind not in BAR_COLOURS:
            continue
        yield Bar(kind=kind, speed=infos[info["baseline"]]["milliseconds"] / info["milliseconds"], remark=remark)


def draw(document: dict[str, Any], target: Path) -> None:
    """Write the picture of one result file."""
    pyplot.rcParams.update(
        {
            "svg.hashsalt": "kernels",  # the same figures give the same file
            "font.size": 9.5,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    groups = groups_of(document)
    rows = sum(len(group.bars) + GAP for group in groups)
    figure, axes = pyplot.subplots(figsize=(9.4, 1.3 + 0.158 * rows), layout="constrained")
    axes.set_xscale("log")
    place, ticks, labels = 0.0, [], []
    seen: dict[str, Any] = {}
    for group in groups:
        middle = place + (len(group.bars) - 1) / 2
        ticks.append(middle)
        labels.append(group.title)
        for bar in group.bars:
            drawn = axes.barh(place, bar.speed - 1, left=1, height=0.82, color=BAR_COLOURS[bar.kind])
            seen.setdefault(bar.kind, drawn)
            axes.annotate(
                f"{_times(bar.speed)}  {bar.remark}",
                (max(bar.speed, 1), place),
                xytext=(4, -0.5),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
            place += 1
        place += GAP
    _dress(axes, ticks, labels)
    kinds = [kind for kind in BAR_COLOURS if kind in seen]
    figure.legend(
        handles=[seen[kind] for kind in kinds],
        labels=[BAR_NAMES[kind] for kind in kinds],
        loc="outside upper center",
        ncols=len(kinds),
        frameon=False,
    )
    figure.supxlabel(_caption(document["machine_info"]), fontsize=8.5)
    metadata = {"Date": None} if target.suffix == ".svg" else None
    figure.savefig(target, transparent=True, metadata=metadata, dpi=144)
    pyplot.close(figure)


def _dress(axes: Any, ticks: list[float], labels: list[str]) -> None:
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.axvline(1, color=INK, linewidth=1)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}x"))
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 1.35)  # room for the last figure
    axes.grid(axis="x", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("speed, eager PyTorch = 1x (amplitude_mix: the published complex128 formulation), log scale")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _times(value: float) -> str:
    digits = 0 if value >= 10 else 1 if value >= 1 else 2
    return f"{value:.{digits}f}x"


def _caption(machine: dict[str, Any]) -> str:
    hardware, versions = machine["hardware"], machine["versions"]
    where = (
        hardware["gpu"]
        or f"{hardware['cpu']}, {machine['threads']} threads, {machine['instruction_set'] or 'no'} kernels"
    )
    return f"{where}; PyTorch {versions['torch'].split('+')[0]}, float32. Measured and drawn by: make bench"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON that pytest-benchmark wrote for bench/")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args(arguments)
    try:
        document = json.loads(options.results.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{options.results} cannot be read: {error}; make it with: make bench")
    draw(document, options.picture)


if __name__ == "__main__":
    main()
