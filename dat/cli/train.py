"""``dat train``: a recipe trained, and what a shell is told of how that ended."""

from __future__ import annotations

import signal

from dat.recipes import Recipe
from dat.training.options import RunOptions
from dat.training.train import train_recipe
from dat_engine.run.stop import process_start


def train_by_flags(recipe: Recipe, options: RunOptions) -> int:
    """Train, a time limit counting from the start of the process; the exit code.

    0: done, or stopped by the time or step limit, as was asked; 143 or 130: stopped by SIGTERM or Ctrl+C, and saved.
    """
    run = train_recipe(recipe, options, started=process_start())
    # no signal of its own: another process of the run was told
    return 128 + (run.stop_signal or signal.SIGTERM) if run.ending == "signal" else 0
