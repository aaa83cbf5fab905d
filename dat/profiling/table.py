"""A profile as a table: one column per subject."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from dat.profiling.step_profile import MethodProfile, Profile
from dat_engine.profile.ranges import RANGES
from dat_engine.profile.trace import OTHER
from dat_engine.run.display.figures import format_count

Figure = Callable[[MethodProfile], str]


def table(profile: Profile, *, title: str) -> Group:
    """The profile for people; how it was measured stands below it."""
    on_gpu = profile.device == "cuda"
    result = Table(Column(no_wrap=True), title=title, title_justify="left")
    for name in profile.methods:
        result.add_column(name.replace(" ", "\n"), justify="right", vertical="bottom")
    timed: dict[str, Figure] = {
        "seconds per epoch": lambda method: significant(method.epoch_seconds),
        "ratio to PGD-AT": lambda method: _times(method.ratio_to_reference),
        "images/s": lambda method: format_count(method.images_per_second),
        "ms per step": lambda method: _milliseconds(method.step_seconds),
    }
    phases: dict[str, Figure] = {
        f"  {name}": lambda method, name=name: _milliseconds(method.phases[name])  # type: ignore[misc]
        for name in (*RANGES, OTHER)
    }
    rates: dict[str, Figure] = {
        "GPU busy" if on_gpu else "CPU busy": lambda method: f"{method.busy:.0%}",
        **({"peak memory, GiB": lambda method: _gibibytes(method.peak_memory_bytes)} if on_gpu else {}),
        "GFLOP per step": lambda method: significant(method.flops / 1e9),
        "GFLOP/s": lambda method: significant(method.flops_per_second / 1e9),
        "of matrix-product rate": lambda method: f"{method.share_of_matrix_product_rate:.0%}",
        "precision": lambda method: method.precision,
        "execution": lambda method: method.execution,
        **{name: lambda method, name=name: _setting(method.weights.get(name)) for name in _weights(profile)},  # type: ignore[misc]
    }
    for rows in (timed, phases, rates):
        if rows is phases:
            result.add_row("phases, ms on the GPU" if on_gpu else "phases, ms", *("" for _ in profile.methods))
        for label, figure in rows.items():
            result.add_row(label, *(figure(method) for method in profile.methods.values()))
        result.add_section()
    return Group(result, Text("\n".join(_notes(profile))))


def _notes(profile: Profile) -> list[str]:
    methods = profile.methods.values()
    steps = sorted({method.steps_per_round for method in methods})
    of = sorted({method.steps_per_epoch for method in methods})
    rates = ", ".join(f"{rate / 1e12:,.2f} ({name})" for name, rate in profile.matrix_product_rates.items())
    lines = [
        f"Medians over rounds taken in turn: {profile.rounds}; steps per round: {_range(steps)}; epochs extrapolated to "
        f"their {_range(of)} steps, without validation.",
        "Phases come from profiled, uncaptured steps, which are slower than the timed ones.",
        f"Matrix-product rate, TFLOP/s: {rates}.",
    ]
    if _weights(profile):
        names = ", ".join(name.upper() for name in _weights(profile))
        lines.append(f"{names}: of the method's recipe; what they add to a step is counted.")
    if profile.device != "cuda":
        lines += [
            "CPU busy: CPU time over wall time x threads.",
            f"Peak memory of the process, all methods together: {_gibibytes(profile.process_peak_memory_bytes)} GiB "
            "resident.",
        ]
    return lines


def significant(value: float) -> str:
    """A value that is not negative in three digits or more: `0.123`, `1.23`, `12.3`, `1,234`."""
    digits = 0 if value == 0 else max(0, min(3, 2 - math.floor(math.log10(value))))
    return f"{value:,.{digits}f}"


def _range(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _weights(profile: Profile) -> list[str]:
    """awp, ema and swa, those that any subject has."""
    return list(dict.fromkeys(name for method in profile.methods.values() for name in method.weights))


def _setting(value: object) -> str:
    return "-" if value is None else str(value)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _milliseconds(seconds: float) -> str:
    return significant(1e3 * seconds)


def _gibibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**30:.2f}"
