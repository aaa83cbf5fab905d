"""From records to a verdict: which figures count, which targets are met, whether the gates are green."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.gpu_acceptance.launch import Outcome
from bench.gpu_acceptance.records import Figure, Gate
from bench.gpu_acceptance.targets import TARGETS, Target

State = Literal["met", "missed", "withheld", "not measured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A target and what came of it; `figure` is None where it was not measured, or may not be shown."""

    target: Target
    state: State
    figure: Figure | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a run found out."""

    gates: tuple[Gate, ...]
    figures: tuple[Figure, ...]
    """Those that count: all their gates are green. Empty in a rehearsal."""
    withheld: dict[str, str]
    """Figures that were measured and do not count, with the reason."""
    targets: tuple[Judged, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def green(self) -> bool:
        """No gate failed or is missing, and every section came to its end."""
        return all(gate.status in ("passed", "skipped") for gate in self.gates) and all(
            outcome.complete for outcome in self.outcomes
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "green": self.green,
            "targets": [
                {
                    "figure": judged.target.figure,
                    "bound": judged.target.bound,
                    "sense": judged.target.sense,
                    "state": judged.state,
                    "value": None if judged.figure is None else judged.figure.value,
                    "unit": None if judged.figure is None else judged.figure.unit,
                    "note": judged.reason if judged.figure is None else judged.figure.note,
                }
                for judged in self.targets
            ],
            "figures": [asdict(figure) for figure in self.figures],
            "withheld": self.withheld,
            "gates": [asdict(gate) for gate in self.gates],
            "sections": [asdict(outcome) for outcome in self.outcomes],
        }


def judge(gates: Sequence[Gate], figures: Sequence[Figure], outcomes: Sequence[Outcome], *, rehearsal: bool) -> Verdict:
    """Withhold every figure one of whose gates is not green, all of them in a rehearsal, and look at the targets."""
    counting: list[Figure] = []
    withheld: dict[str, str] = {}
    for figure in figures:
        reason = "a rehearsal measures nothing" if rehearsal else why_withheld(figure, gates, outcomes)
        if reason is None:
            counting.append(figure)
        else:
            withheld[figure.name] = reason
    return Verdict(
        gates=tuple(gates),
        figures=tuple(counting),
        withheld=withheld,
        targets=tuple(_judge(target, counting, withheld) for target in TARGETS),
        outcomes=tuple(outcomes),
    )


def why_withheld(figure: Figure, gates: Sequence[Gate], outcomes: Sequence[Outcome]) -> str | None:
    """None where every gate that the figure needs exists and is green."""
    for prefix in figure.needs:
        needed = [gate for gate in gates if gate.name.startswith(prefix)]
        if not needed:
            return f"no gate {prefix!r} was run"
        red = [gate for gate in needed if gate.status not in ("passed", "skipped")]
        if red:
            return f"gate {red[0].status}: {red[0].name}"
        if all(gate.status == "skipped" for gate in needed):
            return f"gate skipped: {needed[0].name}"
    return None


def _judge(target: Target, counting: Sequence[Figure], withheld: dict[str, str]) -> Judged:
    for figure in counting:
        if figure.name == target.figure:
            return Judged(target=target, state="met" if target.met(figure.value) else "missed", figure=figure)
    if target.figure in withheld:
        return Judged(target=target, state="withheld", figure=None, reason=withheld[target.figure])
    return Judged(target=target, state="not measured", figure=None)
