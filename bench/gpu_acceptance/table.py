"""The verdict as text: targets, other figures, gates that are not green."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.gpu_acceptance.records import Figure
from bench.gpu_acceptance.verdict import Judged, Verdict


def render(verdict: Verdict, *, hardware: str, rehearsal: bool) -> str:
    """One text for the terminal."""
    lines = [f"GPU acceptance: {hardware}", ""]
    if rehearsal:
        lines += ["rehearsal on the CPU: every section ran its code, no time was measured", ""]
    else:
        lines += _columns(("target", "measured", "bound", ""), [_target(judged) for judged in verdict.targets])
        named = {judged.target.figure for judged in verdict.targets}
        others = [figure for figure in verdict.figures if figure.name not in named]
        lines += ["", *_columns(("also measured", "", "note"), [(f.name, measured(f), f.note) for f in others]), ""]
        if verdict.withheld:
            lines += [*_columns(("withheld", "reason"), sorted(verdict.withheld.items())), ""]
    counts = dict.fromkeys(("passed", "failed", "unfinished", "skipped"), 0)
    for gate in verdict.gates:
        counts[gate.status] += 1
    lines.append("gates: " + ", ".join(f"{count} {status}" for status, count in counts.items() if count))
    hidden = ("passed", "skipped") if rehearsal else ("passed",)  # a rehearsal has no GPU and skips every test
    lines += [f"  {gate.status}: {gate.name}: {gate.detail}" for gate in verdict.gates if gate.status not in hidden]
    lines += [f"  section {one.section}: {one.detail}" for one in verdict.outcomes if not one.complete]
    lines.append("all gates are green" if verdict.green else "NOT ACCEPTED: a gate is not green")
    return "\n".join(lines)


def measured(figure: Figure) -> str:
    """Value and unit; three digits are all that such figures carry."""
    value = figure.value
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {figure.unit}"


def _target(judged: Judged) -> tuple[str, ...]:
    value = judged.state if judged.figure is None else measured(judged.figure)
    verdict = judged.reason if judged.figure is None else judged.state
    return judged.target.figure, value, f"{judged.target.sense} {judged.target.bound:g}", verdict


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[index]) for row in table) for index in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
