"""The flags of ``dat sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dat.cli.flags import HELP, parse_flags
from dat.sweep.file import Sweep, read_sweep
from dat.sweep.options import SweepOptions
from dat_engine.errors import UserError

USAGE = "dat sweep FILE [--out DIR] [--executor here|local|slurm] [flags]"
DESCRIPTION = """Run the recipes, ablations and seeds of a file, and compare them: accuracy over seeds, seconds per epoch.
Started again, it skips what is finished and resumes what is not. The file's group `options` gives the flags' defaults."""


def parse_sweep_flags(arguments: Sequence[str]) -> tuple[Sweep, SweepOptions]:
    """Command-line words after ``dat sweep`` -> the runs, and where and how to run them.

    Raises:
        UserError: no file, a file that is wrong, an unknown flag, a value out of range.
        SystemExit: after ``--help``.
    """
    if arguments and arguments[0] in HELP:
        parse_options(arguments, SweepOptions())
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"name the sweep's file first: {USAGE}")
    sweep = read_sweep(Path(arguments[0]))
    return sweep, parse_options(arguments[1:], sweep.options)


def parse_options(words: Sequence[str], default: SweepOptions) -> SweepOptions:
    """The flags over what the file says."""
    flags_type = make_dataclass(
        "Flags",
        [("options", Annotated[SweepOptions, tyro.conf.arg(name="")], field(default=default))],
        kw_only=True,
        frozen=True,
    )
    flags: Any = parse_flags(flags_type, words, command="dat sweep FILE", description=DESCRIPTION)
    options: SweepOptions = flags.options
    return options
