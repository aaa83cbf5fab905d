"""Begin, or go on with, a run directory; and how processes that torchrun starts anew know that the run is their own."""

from __future__ import annotations

import os
from pathlib import Path

from dat.recipes import Recipe
from dat.training.options import RunOptions
from dat_engine.distributed import Processes
from dat_engine.run.durable_file import replacing
from dat_engine.run.run_directory import RunDirectory

LAUNCH_FILE = ".launch"


def open_run(recipe: Recipe, options: RunOptions, path: Path, resume: bool, processes: Processes) -> RunDirectory:
    """The run directory: locked for writing in the main process, which goes first, to look at in the others."""
    if not processes.is_main:
        processes.barrier()
        return RunDirectory.open(path)
    if resume:
        run = RunDirectory.resume(path)
        if (run.config, run.options) != (recipe.to_dict(), options.to_dict()):
            run.rewrite_config(recipe.to_dict(), options.to_dict())
    else:
        run = RunDirectory.create(path, recipe.to_dict(), options=options.to_dict())
        if processes.world_size > 1:
            with replacing(path / LAUNCH_FILE) as file:  # in place of a link by that name too, not through it
                file.write(_launch().encode())
    processes.barrier()
    return run


def began_here(path: Path) -> bool:
    """Whether the run at `path` was begun by this very torchrun command, before one of its processes died."""
    note = path / LAUNCH_FILE
    return note.is_file() and note.read_text() == _launch()


def _launch() -> str:
    """What all processes of one torchrun command share, its restarts included."""
    return " ".join(os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
