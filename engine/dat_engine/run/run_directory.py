"""The directory of one training run: its recipe, figures, checkpoints and TensorBoard events."""

import contextlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dat_engine.errors import RunFailedError, UserError
from dat_engine.run.checkpoint import CheckpointFolder
from dat_engine.run.durable_file import refuse_link, remove_leftovers, replacing, sync_directory
from dat_engine.run.environment import describe_environment
from dat_engine.run.json_file import read_json_object
from dat_engine.run.lock import RunLock
from dat_engine.run.metrics import MetricsLog, finite

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SIGNS_OF_A_RUN = ("config.json", "metrics.jsonl", "summary.json", "checkpoints")
_WRITTEN = (*_SIGNS_OF_A_RUN, "tensorboard", ".lock")


class RunDirectory:
    """One run on disk; made by `create` and `resume`, which lock it for training, or `open`, which only looks.

    `config` is the recipe as it was given to `create`, in JSON types (tuples are lists); `options` is how it is run (data
    root, device, ...), empty in a run of an older version; `environment` is what `describe_environment` said when it was
    created; `metrics` the log in metrics.jsonl; `checkpoints` the folder of that name.
    A context manager: leaving it closes the logs and lets go of the lock.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        options: dict[str, Any],
        environment: dict[str, Any],
        lock: RunLock | None,
        keep_checkpoints: int,
    ) -> None:
        self.path = path
        self.config = config
        self.options = options
        self.environment = environment
        self.metrics = MetricsLog(path / "metrics.jsonl")
        self.checkpoints = CheckpointFolder(path / "checkpoints", keep=keep_checkpoints)
        self._lock = lock
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        options: Mapping[str, Any] | None = None,
        keep_checkpoints: int = 2,
    ) -> Self:
        """Begin a run at `path`, made with its parents where missing, and lock it. config.json appears whole, last.

        Raises UserError, with nothing left behind, when `path` holds a run or a symbolic link by the name of one of a
        run's files, is a file, is in use or cannot be written; TypeError when `config` or `options` is not JSON.
        """
        path = Path(path)
        _refuse_undecodable(path)
        refuse_taken(path)
        environment = describe_environment()
        text = _config_text(config, options or {}, environment)
        missing = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
        made: list[Path] = []
        lock = None
        try:
            for folder in reversed(missing):
                with contextlib.suppress(FileExistsError):  # another run under the same parent was quicker
                    folder.mkdir()
                    made.append(folder)
                sync_directory(folder.parent)
            lock = RunLock(path)
            refuse_taken(path)  # again, now that no other process can be between its own check and its config.json
            with replacing(path / "config.json") as file:
                file.write(text.encode())
        except BaseException as error:
            _undo(path, made, lock)
            if isinstance(error, OSError):
                raise UserError(
                    f"cannot create the run directory {path}: {error.strerror or error}; use another --run-dir"
                ) from error
            raise
        document = json.loads(text)
        return cls(path, document["recipe"], document["run"], environment, lock, keep_checkpoints)

    @classmethod
    def open(cls, path: str | Path, *, keep_checkpoints: int = 2) -> Self:
        """Look at a run, finished or not, without locking it (evaluation, reports, the other processes of a run).

        Raises UserError when there is no run at `path` or its config.json is damaged.
        """
        path = Path(path)
        config, options, environment = _read_config(path)
        return cls(path, config, options, environment, None, keep_checkpoints)

    @classmethod
    def resume(cls, path: str | Path, *, keep_checkpoints: int = 2) -> Self:
        """`open`, and lock the run to go on training.

        Raises UserError also when another process trains in it, or when
        a file or folder of it is a symbolic link: `path` itself may be one, nothing in it is written through links.
        """
        path = Path(path)
        config, options, environment = _read_config(path)
        _refuse_links(path)
        try:
            lock = RunLock(path)
        except OSError as error:
            raise UserError(f"cannot write to the run directory {path}: {error.strerror or error}") from error
        remove_leftovers(path)
        return cls(path, config, options, environment, lock, keep_checkpoints)

    def rewrite_config(self, config: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Replace recipe and options in config.json, atomically; the environment stays that of the run's beginning.

        Raises UserError when it cannot be written, TypeError for what is not JSON.
        """
        text = _config_text(config, options, self.environment)
        try:
            with replacing(self.path / "config.json") as file:
                file.write(text.encode())
        except OSError as error:
            raise UserError(f"cannot write {self.path / 'config.json'}: {error.strerror or error}") from error
        document = json.loads(text)
        self.config, self.options = document["recipe"], document["run"]

    def truncate_metrics(self, after_step: int, *, lines: int | None = None) -> None:
        """Forget figures of steps beyond `after_step`, the step of the checkpoint that training goes on from.

        Args:
            lines: how many lines there were when that checkpoint was written.

        Raises:
            RunFailedError: the log cannot be written.
        """
        self.metrics.truncate(after_step, lines=lines)
        self._purge_step = after_step + 1

    def tensorboard(self) -> "SummaryWriter":
        """The run's event writer, made at the first call; hides events that `truncate_metrics` has made obsolete."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import; only here does it pay

            refuse_link(self.path / "tensorboard")
            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=self._purge_step)
        return self._writer

    def add_scalars(self, chart: str, values: Mapping[str, float], step: int) -> None:
        """Plot each value at `step` into the chart that TensorBoard groups them by.

        Raises:
            RunFailedError: the events cannot be written, now or since the call before.
        """
        try:
            for name, value in values.items():
                self.tensorboard().add_scalar(f"{chart}/{name}", value, step)
        except OSError as error:
            raise RunFailedError(
                f"cannot write TensorBoard's events to {self.path / 'tensorboard'}: {error.strerror or error}; the checkpoints "
                "so far are whole: mend that and go on with --resume"
            ) from error

    def why_it_cannot_begin_again(self) -> str | None:
        """Of a run without a checkpoint: what says that it has trained, so that to begin again would overwrite it.

        None where it was killed before its first step was logged: nothing is lost by beginning again.
        """
        for name in ("summary.json", "checkpoints/best.safetensors"):
            if os.path.lexists(self.path / name):
                return f"it has {name}"
        steps = max((row["step"] for row in self.metrics.rows() if isinstance(row.get("step"), int)), default=0)
        return f"its metrics.jsonl goes to step {steps}" if steps else None

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Replace summary.json, atomically; nan and infinities become null.

        Raises TypeError for what is not JSON, RunFailedError when it cannot be written, UserError when it is a symbolic link.
        """
        path = self.path / "summary.json"
        refuse_link(path)
        text = json.dumps(finite(summary), indent=2, allow_nan=False) + "\n"
        try:
            with replacing(path) as file:
                file.write(text.encode())
        except OSError as error:
            raise RunFailedError(
                f"cannot write {path}: {error.strerror or error}; the checkpoints are whole: mend that, and --resume evaluates "
                "again"
            ) from error
        return path

    def read_summary(self) -> dict[str, Any] | None:
        """What `write_summary` wrote last, None before. Raises UserError when summary.json is damaged."""
        path = self.path / "summary.json"
        return read_json_object(path) if path.exists() else None

    def close(self) -> None:
        """Close metrics and events and let go of the lock; a second call does nothing."""
        self.metrics.close()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except OSError as error:  # figures are in metrics.jsonl too; an error of the run itself must not be hidden
                warnings.warn(
                    f"the last of TensorBoard's events could not be written to {self.path / 'tensorboard'}: "
                    f"{error.strerror or error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_undecodable(path: Path) -> None:
    """Raise UserError for a name that is not UTF-8, which TensorBoard's event files cannot have."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the run directory {str(path)!r} has bytes in its name that are not UTF-8; use another name"
        ) from error


def refuse_taken(path: Path) -> None:
    """Raise UserError where no run can begin at `path`: it holds one, or it or a folder above it is a file."""
    # os.path, here and below: Path.exists raises where a directory on the way may not be searched
    for ancestor in (path, *path.parents):
        if os.path.exists(ancestor) and not os.path.isdir(ancestor):
            raise UserError(f"cannot create the run directory {path}: {ancestor} is a file; use another --run-dir")
    if any(os.path.exists(path / name) for name in _SIGNS_OF_A_RUN):
        raise UserError(f"{path} already holds a run; go on with it by --resume, or use another --run-dir")
    _refuse_links(path)


def _refuse_links(path: Path) -> None:
    for name in _WRITTEN:
        refuse_link(path / name)


def _undo(path: Path, made: list[Path], lock: RunLock | None) -> None:
    if lock is not None:
        if path in made:  # unlinked while still locked, so that nobody can have come to hold what is deleted
            (path / ".lock").unlink(missing_ok=True)
        lock.release()
    for folder in reversed(made):
        try:
            os.rmdir(folder)
        except OSError:  # somebody else has put something there meanwhile
            return


def _config_text(config: Mapping[str, Any], options: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    return json.dumps({"recipe": dict(config), "run": dict(options), **environment}, indent=2) + "\n"


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Recipe, options and environment from config.json."""
    if not os.path.exists(path):
        raise UserError(f"there is no run at {path}: no such directory")
    if not os.path.isdir(path):
        raise UserError(f"there is no run at {path}: it is a file, not a run directory")
    if not os.path.exists(path / "config.json"):
        raise UserError(f"there is no run at {path}: it has no config.json")
    document = read_json_object(path / "config.json")
    recipe = document.pop("recipe", None)
    if not isinstance(recipe, dict):
        raise UserError(f"{path / 'config.json'} is damaged: it has no recipe; restore it or start a new run")
    options = document.pop("run", {})  # older versions wrote none
    if not isinstance(options, dict):
        raise UserError(f"{path / 'config.json'} is damaged: its run holds no fields; restore it or start a new run")
    return recipe, options, document
