"""metrics.jsonl: one JSON object per line, of which a crash can cost at most the last."""

import errno
import json
import math
import os
import warnings
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from dat_engine.errors import RunFailedError
from dat_engine.run.durable_file import refuse_link, replacing


class MetricsLog:
    """Append-only log of figures. Opened for writing at the first `append`; `rows` only reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._lines = 0

    @property
    def lines(self) -> int:
        """How many whole lines the log has; with it, `truncate` finds exactly the way back to here."""
        if self._file is None:
            try:
                return self.path.read_bytes().count(b"\n")
            except FileNotFoundError:
                return 0
        return self._lines

    def append(self, row: Mapping[str, Any]) -> None:
        """Write `row` (JSON types) as one line and flush it; nan and infinities, which JSON lacks, become null.

        Raises TypeError, before anything is written, for a value that is not JSON (a tensor, say); RunFailedError when the
        disk is full, the file cannot be written, or its directory has been removed; UserError when it is a symbolic link.
        """
        line = json.dumps(finite(row), allow_nan=False).encode() + b"\n"
        try:
            if self._file is None:
                # unbuffered: a row that the disk had no room for must not wait in a buffer and fail again in close()
                refuse_link(self.path)
                self._file = open(self.path, "ab", buffering=0, opener=_open_no_link)  # noqa: SIM115
                self._lines = _cut_torn_line(self._file, self.path)
            if os.fstat(self._file.fileno()).st_nlink == 0:  # it would take every row, and nobody would ever see one
                raise FileNotFoundError(errno.ENOENT, "the file has been removed while the run wrote into it")
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._lines += 1
        except OSError as error:
            self.close()  # the next append opens the file anew and so cuts what this one may have left
            raise RunFailedError(
                f"cannot write figures to {self.path}: {error.strerror or error}; the checkpoints so far are whole: mend that "
                "and go on with --resume"
            ) from error

    def rows(self, *, limit: int | None = None) -> list[dict[str, Any]]:
        """All whole rows; a torn last line is left out silently, a damaged one elsewhere with a RuntimeWarning.

        Args:
            limit: look at the first so many lines only.
        """
        try:
            lines = self.path.read_bytes().splitlines()[:limit]
        except FileNotFoundError:
            return []
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            elif number < len(lines):
                warnings.warn(f"line {number} of {self.path} is damaged and left out", RuntimeWarning, stacklevel=2)
        return rows

    def epoch_rows(self) -> list[dict[str, Any]]:
        """Those of `rows` that end an epoch."""
        return [row for row in self.rows() if "epoch_loss" in row]

    def truncate(self, after_step: int, *, lines: int | None = None) -> None:
        """Drop the rows whose `step` is higher than `after_step`, and damaged lines; rows without a step stay.

        Args:
            lines: drop whatever stands behind this many lines too: a row of the same step may be newer than its checkpoint.

        Raises:
            RunFailedError: the file cannot be written.
        """
        self.close()
        refuse_link(self.path)
        if not self.path.exists():
            return
        kept = [row for row in self.rows(limit=lines) if row.get("step", after_step) <= after_step]
        try:
            with replacing(self.path) as file:
                file.writelines(json.dumps(row).encode() + b"\n" for row in kept)
        except OSError as error:
            raise RunFailedError(f"cannot write figures to {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def finite(value: Any) -> Any:
    """`value` with every nan and infinity in it, at any depth, replaced by None, so that strict JSON can hold it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _cut_torn_line(file: FileIO, path: Path) -> int:
    """Without this the first new row would be glued to the half row of a killed process, and both be lost.

    Returns the number of whole lines.
    """
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        os.ftruncate(file.fileno(), whole)
    return content.count(b"\n")
