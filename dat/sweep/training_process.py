"""One run of a sweep as a process of its own: ``dat train``, begun or resumed as its folder asks for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dat.recipes import Recipe
from dat.sweep.run_folder import state_of
from dat_engine.errors import RunFailedError, UserError
from dat_engine.run.durable_file import replacing
from dat_engine.run.parent import STARTED_BY

TRAIN = (sys.executable, "-m", "dat", "train")
_DEFECT = "this is a defect of dat-engine"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingProcess:
    """What a process of a run is told. Beside the run directory stand its recipe and its log, by its name."""

    run_dir: Path
    flags: tuple[str, ...] = ()
    """Of ``dat train``: where the run is run."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set for the process besides what it inherits."""
    program: tuple[str, ...] = field(default_factory=lambda: TRAIN)
    """What trains."""

    @property
    def recipe_file(self) -> Path:
        """The recipe that a new run is begun with."""
        return self.run_dir.with_name(f"{self.run_dir.name}.json")

    @property
    def log(self) -> Path:
        """What the process says, of all times that it was started."""
        return self.run_dir.with_name(f"{self.run_dir.name}.log")

    def prepare(self, recipe: Recipe) -> None:
        """Write the recipe's file.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self.recipe_file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.recipe_file) as file:
                file.write((json.dumps(recipe.to_dict(), indent=2) + "\n").encode())
        except OSError as error:
            raise UserError(f"cannot write {self.recipe_file}: {error.strerror or error}; use another --out") from None

    def command(self) -> list[str]:
        """The words of the process; None of them needs a shell."""
        begin = ["--config", str(self.recipe_file)] if state_of(self.run_dir) == "missing" else ["--resume"]
        run = ["--run-dir", str(self.run_dir), "--progress", "plain", *self.flags]
        return [*self.program, *begin, *run]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, in a session of its own: Ctrl+C on a terminal is the sweep's to pass on, once.

        It ends with this process, as by SIGTERM, however this one ends (on Linux).

        Raises:
            RunFailedError: its log cannot be written.
        """
        try:
            log = self.log.open("ab")
        except OSError as error:
            raise RunFailedError(
                f"cannot write {self.log}: {error.strerror or error}; mend that, and start the sweep again"
            ) from error
        with log:
            return subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, STARTED_BY: str(os.getpid())},
                start_new_session=True,
            )

    def last_words(self, code: int) -> str:
        """Why a process that ended with `code` failed: the last line of its log that says so."""
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"ended by {name}" + (", by the system where its memory is full" if name == "SIGKILL" else "")
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        spoken = [line.strip() for line in lines if line.strip() and _DEFECT not in line]
        return spoken[-1].removeprefix("dat train: ") if spoken else f"exit code {code}"
