"""Begin, or go on with, a run directory; and how processes that torchrun starts anew know that the run is their own."""

from __future__ import annotations

import os
from pathlib import Path

from dat.recipes import Recipe
from dat.training.options import RunOptions
from dat_engine.distributed import Processes
from dat_engine.errors import UserError
from dat_engine.run.durable_file import replacing
from dat_engine.run.run_directory import RunDirectory

LAUNCH_FILE = ".launch"


def open_run(recipe: Recipe, options: RunOptions, path: Path, resume: bool, processes: Processes) -> RunDirectory:
    """The run directory: locked for writing in the main process, which goes first, to look at in the others."""
    run: RunDirectory | None = None
    keep = options.checkpoint.keep
    with processes.failing_together():
        if processes.is_main and resume:
            run = RunDirectory.resume(path, keep_checkpoints=keep)
            if (run.config, run.options) != (recipe.to_dict(), options.to_dict()):
                run.rewrite_config(recipe.to_dict(), options.to_dict())
        elif processes.is_main:
            run = RunDirectory.create(path, recipe.to_dict(), options=options.to_dict(), keep_checkpoints=keep)
            if processes.world_size > 1:
                with replacing(path / LAUNCH_FILE) as file:  # in place of a link by that name too, not through it
                    file.write(_launch().encode())
    return run or RunDirectory.open(path)


def begin_again(run: RunDirectory, path: Path, processes: Processes) -> None:
    """Of a run without checkpoints: start from its beginning, unless that would throw away what it has trained.

    Under torchrun, which has started the processes anew by itself, there is nobody to ask and nothing older to lose.

    Raises:
        UserError: it has trained; says how to go on with it or start it again.
    """
    why = run.why_it_cannot_begin_again() if processes.restarts == 0 else None
    processes.barrier()  # nobody looks at figures that the first process has dropped
    if why is not None:
        raise UserError(
            f"{path} has no checkpoint to go on from, but {why}; put its checkpoints back, or start it from its beginning "
            f"with: dat train --config {path}/config.json --run-dir ANOTHER"
        )
    if processes.is_main:
        run.truncate_metrics(0, lines=0)


def began_here(path: Path) -> bool:
    """Whether the run at `path` was begun by this very torchrun command, before one of its processes died."""
    note = path / LAUNCH_FILE
    return note.is_file() and note.read_text() == _launch()


def _launch() -> str:
    """What all processes of one torchrun command share, its restarts included."""
    return " ".join(os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
