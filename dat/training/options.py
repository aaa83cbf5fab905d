"""Where and how long a recipe runs: the flags of ``dat train`` that are not part of the experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from dat_engine.errors import UserError
from dat_engine.run.interval import parse_interval
from dat_engine.run.stop import parse_duration

DisplayStyle = Literal["auto", "terminal", "plain", "silent"]
DEFAULT_DATA_ROOT = Path("data")


def default_run_dir(recipe: str, method: str) -> Path:
    """Where the run of a recipe goes whose caller names no folder."""
    return Path("runs") / f"{recipe}-{method}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointOptions:
    """When checkpoints are written and how many remain."""

    every: str = "10m"
    """Besides every epoch: a duration (10m) or a number of steps (500); epoch: at the ends of epochs only."""
    keep: int = 2
    """How many of the newest remain, besides the best one."""

    def __post_init__(self) -> None:
        parse_interval(self.every)
        if self.keep < 1:
            raise UserError(f"checkpoint.keep must be at least 1, better 2; got {self.keep}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Where and how long a recipe runs; not part of the experiment."""

    data_root: Path = DEFAULT_DATA_ROOT
    """Folder that holds (or will hold, after a download) the data set."""
    run_dir: Path | None = None
    """Run directory; None: runs/RECIPE-METHOD."""
    device: str | None = None
    """cpu, cuda or cuda:N; None: the GPU where there is one."""
    max_steps: int | None = None
    """Stop after this many steps."""
    time_limit: str | None = None
    """Stop and save after this long, e.g. 9m, 90s, 1h30m; --resume goes on."""
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    deterministic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Same seed, same bits, on one machine: choose deterministic algorithms everywhere, and stop where there is none."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in the run directory from its newest checkpoint; recipe and flags are those of its config.json."""
    config: Path | None = None
    """Recipe file: the config.json of another run, or YAML or JSON of that form; flags override its fields."""
    progress: DisplayStyle = "auto"
    """How progress is shown; auto: a live display on a terminal, lines elsewhere."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"max_steps must be at least 1; got {self.max_steps}")
        if self.progress not in get_args(DisplayStyle):
            raise UserError(f"progress must be one of {', '.join(get_args(DisplayStyle))}; got {self.progress!r}")
        if self.time_limit is not None:
            parse_duration(self.time_limit)

    def to_dict(self) -> dict[str, Any]:
        """What config.json keeps for --resume; JSON types only. The data root is absolute: a run is resumed from anywhere."""
        return {
            "data_root": str(self.data_root.expanduser().absolute()),
            "device": self.device,
            "max_steps": self.max_steps,
            "time_limit": self.time_limit,
            "progress": self.progress,
            "checkpoint": {"every": self.checkpoint.every, "keep": self.checkpoint.keep},
            "deterministic": self.deterministic,
        }


def run_options_from_dict(values: Mapping[str, Any], *, run_dir: Path) -> RunOptions:
    """Read back what `RunOptions.to_dict` wrote; what an older version did not write has its default.

    How long the session that wrote them was to last (`max_steps`, `time_limit`) is not taken over: a resumed run goes on to
    its end unless it is told otherwise again.

    Raises:
        UserError: values of another type.
    """
    types: dict[str, Any] = {"device": str, "progress": str, "deterministic": bool}
    known = _of_types(values, types, "run", run_dir)
    checkpoint = values.get("checkpoint", {})
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{run_dir / 'config.json'} is damaged: run.checkpoint is {checkpoint!r}")
    return RunOptions(
        data_root=recorded_data_root(values) or DEFAULT_DATA_ROOT,
        run_dir=run_dir,
        checkpoint=CheckpointOptions(**_of_types(checkpoint, {"every": str, "keep": int}, "run.checkpoint", run_dir)),
        **known,
    )


def _of_types(values: Mapping[str, Any], types: Mapping[str, type], where: str, run_dir: Path) -> dict[str, Any]:
    """Those of the named values that are there."""
    known = {name: values[name] for name in types if name in values}
    for name, value in known.items():
        if not (isinstance(value, types[name]) or (value is None and name == "device")):
            raise UserError(f"{run_dir / 'config.json'} is damaged: {where}.{name} is {value!r}")
    return known


def recorded_data_root(values: Mapping[str, Any]) -> Path | None:
    """The data root that a config.json's `run` names; None where an older version wrote it."""
    root = values.get("data_root")
    return Path(root) if isinstance(root, str) else None
