"""A pytest plugin: what tests find out, written down as gates as soon as the last test of a gate ends.

A test says which gate it is a part of by `@pytest.mark.gate(name)`; those of a file that do not are that file's gate.
`record_property("note", text)` goes into the gate's detail, every other property into the result's details.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

import pytest
import torch

from bench.gpu_acceptance.records import Gate, Recorder, Status

MayEnd = Literal["passed", "skipped", "either"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gates-into", type=Path, required=True, metavar="FILE", help="records of the acceptance run")
    parser.addoption("--gates-expected", choices=get_args(MayEnd), default="passed", help="how a gate may end")


def pytest_configure(config: pytest.Config) -> None:
    # many steps of one architecture in one process; past the limit a compiled one would run uncompiled without a word
    torch._dynamo.config.recompile_limit = 64
    record = Recorder(config.getoption("--gates-into"))
    config.pluginmanager.register(Gates(record, cast(MayEnd, config.getoption("--gates-expected"))))


def gate_of_file(file: str) -> str:
    """The gate of the tests of a file below tests/ that name none."""
    return f"tests on this device: {file}"


def gate_of_test(item: pytest.Item) -> str:
    mark = item.get_closest_marker("gate")
    if mark is None:
        return gate_of_file(item.path.relative_to(item.config.rootpath / "tests").as_posix())
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return str(mark.args[0]).format(**parameters)


@dataclass(slots=True)
class _Gathered:
    """What is known of one gate."""

    missing: set[str] = field(default_factory=set)
    """Its tests that have not ended."""
    counts: dict[str, int] = field(default_factory=lambda: {"passed": 0, "failed": 0, "skipped": 0})
    failure: str = ""
    skip: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Gates:
    """Writes down which gates are expected when the tests are collected, and each when the last of its tests has ended."""

    def __init__(self, record: Recorder, expected: MayEnd) -> None:
        self._record = record
        self._expected = expected
        self._gathered: dict[str, _Gathered] = {}
        self._gates: dict[str, str] = {}
        self._outcomes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = self._gates[item.nodeid] = gate_of_test(item)
            self._gathered.setdefault(name, _Gathered()).missing.add(item.nodeid)
        self._record.expect(list(self._gathered))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        gate, test = self._gathered[self._gates[report.nodeid]], report.nodeid
        gate.seconds += report.duration
        if report.failed:
            self._outcomes[test] = "failed"
            gate.failure = gate.failure or f"{test.partition('::')[2]}: {_message(report)}"
        elif report.skipped:
            self._outcomes.setdefault(test, "skipped")
            gate.skip = gate.skip or _reason(report)
        if report.when == "teardown":
            gate.counts[self._outcomes.get(test, "passed")] += 1
            gate.missing.discard(test)
            self._keep(gate, report.user_properties)
            if not gate.missing:
                self._write(self._gates[test], gate)

    def _keep(self, gate: _Gathered, properties: Sequence[tuple[str, object]]) -> None:
        for name, value in properties:
            if name == "note":
                gate.notes.append(str(value))
            else:
                self._record.detail(name, value)

    def _write(self, name: str, gate: _Gathered) -> None:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in gate.counts.items() if count)
        status: Status
        if gate.counts["failed"]:
            status, detail = "failed", "; ".join([counts, gate.failure, *gate.notes])
        elif not gate.counts["passed"] and self._expected == "passed":
            status, detail = "failed", f"nothing was tested: {gate.skip}"
        elif not gate.counts["passed"]:
            status, detail = "skipped", gate.skip
        elif self._expected == "skipped":
            status, detail = "failed", f"{counts}: a test without a GPU is marked gpu"
        else:
            status, detail = "passed", "; ".join([counts, *gate.notes])
        self._record.ended(Gate(name=name, status=status, detail=detail, seconds=gate.seconds))


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(report.longrepr if crash is None else crash.message).partition("\n")[0]


def _reason(report: pytest.TestReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")
