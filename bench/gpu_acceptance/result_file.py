"""The result on disk: whole at every moment, from the first section on, and what lies beside it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEPT = ("*.trace.json.gz", "*.csv")
"""What sections leave in the run's folder for whoever reads the result."""
LARGEST = 15 << 20
"""Bytes of such a file; a larger one may not come back from a machine that is lent."""


def file_name(environment: Mapping[str, Any]) -> str:
    gpu = environment["hardware"]["gpu"] or "cpu"
    return f"gpu_{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}_{environment['date'][:10]}.json"


def check_folder(folder: Path) -> None:
    """Make `folder`, and raise OSError unless files can be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Replace the file in one step: a run that is cut off leaves the state before, and not half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def write_companions(folder: Path, work: Path, text: str) -> None:
    """Table, logs and the files of `KEPT` into `folder`; one that is too large is named in the logs and left out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.txt").write_text(text + "\n", encoding="utf-8")
    logs = [f"== {log.stem}\n{log.read_text(encoding='utf-8', errors='replace')}" for log in sorted(work.glob("*.log"))]
    for kind in KEPT:
        for path in sorted(work.glob(kind)):
            if path.stat().st_size > LARGEST:
                logs.append(f"== {path.name}\nleft out: {path.stat().st_size} bytes")
                continue
            with contextlib.suppress(OSError):
                shutil.copyfile(path, folder / path.name)
    (folder / "sections.log").write_text("\n".join(logs)[-LARGEST:], encoding="utf-8")
