"""Where and how the runs of a sweep are run: what a file's group ``options`` and the flags of ``dat sweep`` say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from dat.training.options import DEFAULT_DATA_ROOT
from dat_engine.errors import UserError, did_you_mean
from dat_engine.run.stop import parse_duration

ExecutorKind = Literal["here", "local", "slurm"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Where and how the runs are run; not part of the experiments."""

    out: Path | None = None
    """Folder of the sweep, a folder for each run in it; None: runs/NAME."""
    executor: ExecutorKind = "here"
    """here: one after the other; local: submitit's local executor, several at a time on this machine, each with a GPU of its
    own where there are several; slurm: submitit's Slurm executor, by the file's group slurm."""
    jobs: int | None = None
    """How many runs at a time; None: one for each GPU (local), as many as the cluster takes (slurm)."""
    data_root: Path = DEFAULT_DATA_ROOT
    """Folder that holds (or will hold, after a download) the data sets."""
    device: str | None = None
    """cpu, cuda or cuda:N; None: the GPU where there is one."""
    deterministic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """As of dat train: choose deterministic algorithms everywhere, and stop where there is none."""
    time_limit: str | None = None
    """Stop and save after this long, e.g. 50m; the same command goes on."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the runs and what would be done with each; start none."""
    compare: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compare what is finished so far; start none."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"jobs must be at least 1; got {self.jobs}")
        if self.executor == "here" and self.jobs not in (None, 1):
            raise UserError(f"{self.jobs} runs at a time need another executor; use local, or leave jobs out")
        if self.time_limit is not None:
            parse_duration(self.time_limit)


IN_FILE = tuple(field.name for field in fields(SweepOptions) if field.name not in ("dry_run", "compare"))
"""What a file's group ``options`` may hold."""


def options_from_dict(values: Mapping[str, Any], source: str) -> SweepOptions:
    """The group ``options`` of a sweep's file.

    Raises:
        UserError: an option that is not known, or whose value is of another type or out of range.
    """
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in IN_FILE:
            near = did_you_mean(str(name), IN_FILE) or f"; there are {', '.join(IN_FILE)}"
            raise UserError(f"{source}: a sweep has no option {name}{near}")
        wanted: type = {"jobs": int, "deterministic": bool}.get(name, str)
        if type(value) is not wanted and not (value is None and name != "deterministic"):
            word = {int: "a whole number", bool: "true or false", str: "text"}[wanted]
            raise UserError(f"{source}: options.{name} must be {word}; got {value!r}")
        if value is not None:
            given[name] = Path(str(value)) if name in ("out", "data_root") else value
    if given.get("executor", "here") not in get_args(ExecutorKind):
        raise UserError(
            f"{source}: options.executor must be one of {', '.join(get_args(ExecutorKind))}; got {given['executor']!r}"
        )
    try:
        return SweepOptions(**given)
    except UserError as error:
        raise UserError(f"{source}: options: {error}") from None
