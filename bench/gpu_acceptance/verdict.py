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
    invalid: tuple[Figure, ...]
    """The same figures with their values: for whoever looks for the cause, never for a table."""
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
            "invalid_figures": [
                {**asdict(figure), "valid": False, "reason": self.withheld[figure.name]} for figure in self.invalid
            ],
            "gates": [asdict(gate) for gate in self.gates],
            "sections": [asdict(outcome) for outcome in self.outcomes],
        }


def judge(gates: Sequence[Gate], figures: Sequence[Figure], outcomes: Sequence[Outcome], *, rehearsal: bool) -> Verdict:
    """Withhold every figure one of whose gates is not green, all of them in a rehearsal, and look at the targets."""
    counting: list[Figure] = []
    withheld: dict[str, str] = {}
    invalid: list[Figure] = []
    for figure in figures:
        reason = "a rehearsal measures nothing" if rehearsal else why_withheld(figure, gates)
        if reason is None:
            counting.append(figure)
        else:
            withheld[figure.name] = reason
            invalid.append(figure)
    return Verdict(
        gates=tuple(gates),
        figures=tuple(counting),
        withheld=withheld,
        invalid=tuple(invalid),
        targets=tuple(_judge(target, counting, withheld) for target in TARGETS),
        outcomes=tuple(outcomes),
    )


def why_withheld(figure: Figure, gates: Sequence[Gate]) -> str | None:
    """None where every gate that the figure needs exists and is green; else all that is wrong, each by its name."""
    reasons: dict[str, None] = {}
    for prefix in figure.needs:
        needed = [gate for gate in gates if gate.name.startswith(prefix)]
        red = [gate for gate in needed if gate.status not in ("passed", "skipped")]
        if not needed:
            reasons[f"no gate {prefix!r} was run"] = None
        elif not red and all(gate.status == "skipped" for gate in needed):
            reasons[f"gate skipped: {needed[0].name}"] = None
        reasons |= dict.fromkeys(f"gate {gate.status}: {gate.name}" for gate in red)
    return "; ".join(reasons) or None


def _judge(target: Target, counting: Sequence[Figure], withheld: dict[str, str]) -> Judged:
    for figure in counting:
        if figure.name == target.figure:
            return Judged(target=target, state="met" if target.met(figure.value) else "missed", figure=figure)
    if target.figure in withheld:
        return Judged(target=target, state="withheld", figure=None, reason=withheld[target.figure])
    return Judged(target=target, state="not measured", figure=None)
