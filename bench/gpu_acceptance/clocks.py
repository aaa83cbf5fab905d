"""The GPU's clocks, power and temperature as nvidia-smi reads them; nothing is ever set."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

FIELDS = (
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.draw",
    "temperature.gpu",
    "utilization.gpu",
    "pstate",
    "driver_version",
)


def read_clocks() -> Mapping[str, str] | None:
    """The first GPU's `FIELDS` as nvidia-smi prints them, units included; None where it cannot be asked."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.strip().splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    return dict(zip(FIELDS, values, strict=True)) if len(values) == len(FIELDS) else None
