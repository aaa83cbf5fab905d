"""The ordinary tests that take their device from a fixture, on this GPU: `pytest -m gpu`, each file in a process of its own.

One illegal access spoils a process's CUDA context, and takes the rest of that file with it and no other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from bench.gpu_acceptance.records import GateError, Recorder, require
from bench.gpu_acceptance.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 15.0
"""For one file: torch is imported, and kernels are compiled."""


def run(setting: Setting, record: Recorder, *files: str) -> None:
    """The tests marked `gpu` of these files below tests/, a gate for each; in a rehearsal the first file's are skipped."""
    for file in files:
        gate = gate_of(file)
        if setting.rehearsal and file != files[0]:
            record.skipped(gate, "the rehearsal takes one file: the code is the same")
        elif setting.in_time(record, gate, seconds=setting.pick(LEAST_SECONDS, 0.0)):
            with record.gate(gate) as notes:
                notes.text = _tested(file, setting)


def gate_of(file: str) -> str:
    return f"tests on this device: {file}"


def _tested(file: str, setting: Setting) -> str:
    report = setting.work / f"{file.replace('/', '.')}.xml"
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # pytest itself is all that the files need
    limit = max(1.0, setting.time_left - 1.0)
    try:
        ended = subprocess.run([*words, f"tests/{file}"], cwd=ROOT, env=environment, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise GateError("the section's time was used up") from None
    require(report.exists(), f"pytest ended with exit code {ended.returncode} and no report")
    counts, first = read_report(report)
    text = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    require(ended.returncode == 0, f"exit code {ended.returncode}: {text}{'; ' if first else ''}{first}")
    require(counts["skipped" if setting.rehearsal else "passed"] > 0, f"nothing was tested: {text or 'no test'}")
    require(not (setting.rehearsal and counts["passed"]), f"{text}: a test without a GPU is marked gpu")
    return text


def read_report(path: Path) -> tuple[dict[str, int], str]:
    """How many tests passed, failed or were skipped, and the name of the first that failed with its first line."""
    counts, first = {"passed": 0, "failed": 0, "skipped": 0}, ""
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        problem = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        if problem is not None:
            counts["failed"] += 1
            first = first or f"{case.get('name')}: {(problem.get('message') or '').partition(chr(10))[0]}"
        else:
            counts["skipped" if case.find("skipped") is not None else "passed"] += 1
    return counts, first
