"""What a section finds out, written down line by line so that a section which dies keeps what it had."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped", "unfinished"]


class GateError(AssertionError):
    """A gate found what must not be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One statement about correctness. Skipped: it does not apply here. Unfinished: there was no time for it."""

    name: str
    status: Status
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured value. It counts only where every gate whose name begins with one of `needs` has passed."""

    name: str
    value: float
    unit: str
    needs: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """What is kept for whoever reads the result later and judged by nobody: kernels of a step, a learning curve."""

    name: str
    value: Any
    """JSON types only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The gates that a process means to write from here on, so that those which it does not come to are known."""

    gates: tuple[str, ...]


@dataclass(slots=True)
class Notes:
    """What a gate wants to be known beside its result."""

    text: str = ""


def require(condition: object, message: str) -> None:
    """Raise GateError with `message` unless `condition` holds; a tensor of one element counts as its truth."""
    if not bool(condition):
        raise GateError(message)


class Recorder:
    """Appends gates and figures to a file, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def gate(self, name: str) -> Iterator[Notes]:
        """The block is the gate: what it raises makes it fail, and the next gate goes on."""
        notes, started = Notes(), time.monotonic()
        try:
            yield notes
        except Exception as error:
            traceback.print_exc()
            message = str(error) if isinstance(error, GateError) else f"{type(error).__name__}: {error}"
            self.ended(Gate(name=name, status="failed", detail=message, seconds=time.monotonic() - started))
        else:
            self.ended(Gate(name=name, status="passed", detail=notes.text, seconds=time.monotonic() - started))

    def failed(self, name: str, reason: str) -> None:
        self._write(Gate(name=name, status="failed", detail=reason))

    def skipped(self, name: str, reason: str) -> None:
        self._write(Gate(name=name, status="skipped", detail=reason))

    def unfinished(self, name: str, reason: str) -> None:
        self._write(Gate(name=name, status="unfinished", detail=reason))

    def figure(self, name: str, value: float, unit: str, *, needs: Sequence[str] = (), note: str = "") -> None:
        self._write(Figure(name=name, value=value, unit=unit, needs=tuple(needs), note=note))

    def detail(self, name: str, value: Any) -> None:
        self._write(Detail(name=name, value=value))

    def ended(self, gate: Gate) -> None:
        self._write(replace(gate, detail=" ".join(gate.detail.split())[:500], seconds=round(gate.seconds, 2)))

    def expect(self, gates: Sequence[str]) -> None:
        self._write(Expected(gates=tuple(gates)))

    def still_expected(self) -> list[str]:
        """Of the gates that were expected last, those that have not been written."""
        missing: dict[str, None] = {}
        for kind, fields in _records([self.path]):
            if kind == "expected":
                missing = dict.fromkeys(fields["gates"])
            elif kind == "gate":
                missing.pop(fields["name"], None)
        return list(missing)

    def _write(self, record: Gate | Figure | Detail | Expected) -> None:
        kind = type(record).__name__.lower()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **asdict(record)}) + "\n")


def read(paths: Sequence[Path]) -> tuple[list[Gate], list[Figure]]:
    """All gates and figures of these files, in order."""
    gates: list[Gate] = []
    figures: list[Figure] = []
    for kind, fields in _records(paths):
        if kind == "gate":
            gates.append(Gate(**fields))
        elif kind == "figure":
            figures.append(Figure(**{**fields, "needs": tuple(fields["needs"])}))
    return gates, figures


def read_details(paths: Sequence[Path]) -> dict[str, Any]:
    """All details of these files by name; the last one of a name counts."""
    return {fields["name"]: fields["value"] for kind, fields in _records(paths) if kind == "detail"}


def _records(paths: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and fields; the line that a killed process left half written is passed over."""
    for path in paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            yield fields.pop("kind"), fields
