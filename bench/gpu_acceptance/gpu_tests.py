"""The ordinary tests that take their device from a fixture, on this GPU: `pytest -m gpu`, each file in a process of its own.

One illegal access spoils a process's CUDA context, and takes the rest of that file with it and no other.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from bench.gpu_acceptance import gate_plugin
from bench.gpu_acceptance.gate_plugin import MayEnd, gate_of_file
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 15.0
"""For one file: torch is imported, and kernels are compiled."""
ENDED = (0, 1)
"""pytest's exit codes where all tests came to their end: every gate is written down."""


def run(setting: Setting, record: Recorder, *files: str) -> None:
    """The tests marked `gpu` of these files below tests/, each with pytest's options for it, a gate for each name they bear.

    In a rehearsal the files of a section share one process, which starts once, and all their tests are skipped.
    """
    for words in [" ".join(files)] if setting.rehearsal else files:
        gate = gate_of_file(shlex.split(words)[0])
        if setting.in_time(record, gate, seconds=setting.pick(LEAST_SECONDS, 0.0)):
            _test(words, gate, setting, record)


def _test(words: str, gate: str, setting: Setting, record: Recorder) -> None:
    expected: MayEnd = "skipped" if setting.rehearsal else "either" if setting.optional else "passed"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", gate_plugin.__name__]
    command += [f"--gates-into={record.path}", f"--gates-expected={expected}"]
    command += [f"tests/{word}" if word.endswith(".py") else word for word in shlex.split(words)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # pytest itself is all that the files need
    record.expect([])
    try:
        limit = max(1.0, setting.time_left - 1.0)
        code = subprocess.run(command, cwd=ROOT, env=environment, timeout=limit, check=False).returncode
    except subprocess.TimeoutExpired:
        setting.out_of_time(record, *(record.still_expected() or [gate]))
        return
    if code not in ENDED:
        for missing in record.still_expected() or [gate]:
            record.failed(missing, f"pytest {_ending(code)}")


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
