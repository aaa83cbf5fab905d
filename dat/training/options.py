"""Where and how long a recipe runs: the flags of ``dat train`` that are not part of the experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from dat_engine.errors import UserError
from dat_engine.run.stop import parse_duration

DisplayStyle = Literal["auto", "terminal", "plain", "silent"]
DEFAULT_DATA_ROOT = Path("data")


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
        }


def run_options_from_dict(values: Mapping[str, Any], *, run_dir: Path) -> RunOptions:
    """Read back what `RunOptions.to_dict` wrote; what an older version did not write has its default.

    Raises:
        UserError: values of another type.
    """
    known = {name: values[name] for name in ("device", "max_steps", "time_limit", "progress") if name in values}
    types: dict[str, Any] = {"device": str, "max_steps": int, "time_limit": str, "progress": str}
    for name, value in known.items():
        if value is not None and not isinstance(value, types[name]):
            raise UserError(f"{run_dir / 'config.json'} is damaged: run.{name} is {value!r}")
    return RunOptions(data_root=recorded_data_root(values) or DEFAULT_DATA_ROOT, run_dir=run_dir, **known)


def recorded_data_root(values: Mapping[str, Any]) -> Path | None:
    """The data root that a config.json's `run` names; None where an older version wrote it."""
    root = values.get("data_root")
    return Path(root) if isinstance(root, str) else None
