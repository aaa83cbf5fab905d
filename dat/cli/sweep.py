"""``dat sweep``: the runs of a file and their comparison, and what a shell is told of how that ended."""

from __future__ import annotations

import signal
import sys

from dat.sweep.file import Sweep
from dat.sweep.options import SweepOptions
from dat.sweep.plan import print_plan
from dat.sweep.report import open_console, write_comparison
from dat.sweep.sweeping import run_sweep


def sweep_by_flags(sweep: Sweep, options: SweepOptions, command: str) -> int:
    """Do what the flags say; the exit code.

    A dry run refuses what the runs would, but for missing data.

    0: done, or stopped by the time limit, as was asked; 1: a run failed; 143 or 130: stopped by SIGTERM or Ctrl+C, the
    runs that ran having saved.

    Args:
        command: what goes on with the sweep, as a person types it.
    """
    folder = sweep.folder(options)
    if options.dry_run:
        from dat.sweep.checks import check_runs  # imports torch

        check_runs(sweep, options, folder)
        print_plan(sweep, folder)
        return 0
    if options.compare:
        write_comparison(sweep, folder, open_console())
        return 0
    result = run_sweep(sweep, options)
    for run, why in result.failed.items():
        print(f"dat sweep: {run} failed: {why}", file=sys.stderr)
    if result.ending != "finished":
        by = "a signal" if result.ending == "signal" else "the time limit"
        print(f"stopped by {by}; go on with: {command}")
    if result.ending == "signal":
        return 128 + (result.stop_signal or signal.SIGTERM)
    return 1 if result.failed else 0
