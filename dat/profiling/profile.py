"""``dat profile``: what a recipe's epoch costs, method by method; table, JSON, picture and trace."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dat.profiling.options import ProfileOptions
from dat.profiling.picture import PICTURE_TYPES, render
from dat.profiling.step_profile import measure
from dat.profiling.subjects import check_eager_baselines, eager_subjects, engine_subject
from dat.profiling.table import table
from dat.recipes import Recipe
from dat.training.checks import check_without_data
from dat.training.data import TrainingData, load_training_data
from dat.training.device import choose_device
from dat_engine.errors import UserError


def profile(recipes: Sequence[Recipe], options: ProfileOptions) -> int:
    """Measure one recipe per method in turn; prints the table, writes the files, returns the exit code 0.

    Raises:
        UserError: wrong input, before anything is measured; or a file that cannot be written, after the table.
    """
    _check_files(options)
    device = choose_device(options.device)
    for recipe in recipes:
        check_without_data(recipe, options.data_root, device)
    if options.baseline:
        check_eager_baselines(recipes[0])

    def load(recipe: Recipe) -> TrainingData:
        return load_training_data(recipe, options.data_root, device)

    with Console(stderr=True).status("") as status, tempfile.TemporaryDirectory() as folder:
        entries = []
        try:
            for recipe in recipes:
                status.update(f"preparing {recipe.method}")
                entries.append(engine_subject(recipe, load, device))
            if options.baseline:
                status.update("preparing the eager baselines")
                entries += eager_subjects(recipes[0], load, device)
            result = measure(
                entries,
                device,
                trace=Path(folder) / "trace.json",
                rounds=options.rounds,
                steps=options.steps,
                report=status.update,
            )
        except torch.OutOfMemoryError:
            raise UserError(
                f"the methods do not fit into the memory of {device} together; profile fewer at a time with --methods, "
                "or a smaller --batch-size"
            ) from None
        trace = b"" if options.trace is None else (Path(folder) / "trace.json").read_bytes()
    Console().print(table(result, title=f"{_title(recipes[0], device)}, batch {recipes[0].batch_size}"))
    if options.trace is not None:
        _write(options.trace, trace)
    if options.json is not None:
        _write(options.json, (json.dumps(result.to_dict(_shared(recipes)), indent=2) + "\n").encode())
    if options.picture is not None:
        _write(options.picture, render(result, title=_title(recipes[0], device), suffix=options.picture.suffix))
    return 0


def _shared(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """The recipe of all methods: what they share once, their settings and what else is a method's own by method."""
    by_method = {recipe.method: recipe.to_dict() for recipe in recipes}
    shared: dict[str, Any] = {"method": list(by_method)}
    for name, value in recipes[0].to_dict().items():
        if name != "method":
            values = {method: fields[name] for method, fields in by_method.items()}
            alike = name != "settings" and all(other == value for other in values.values())
            shared[name] = value if alike else values
    return shared


def _check_files(options: ProfileOptions) -> None:
    files = {name: getattr(options, name) for name in ("json", "picture", "trace")}
    named = {name: path for name, path in files.items() if path is not None}
    for name, path in named.items():
        if path.is_dir():
            raise UserError(f"--{name} {path} is a directory; name a file")
        if not path.parent.is_dir():
            raise UserError(f"--{name} {path} lies in a directory that does not exist; create {path.parent} first")
        _try_to_write(path, name)
    if len({path.resolve() for path in named.values()}) < len(named):
        raise UserError("--json, --picture and --trace must name different files")
    if options.picture is not None:
        if options.picture.suffix not in PICTURE_TYPES:
            raise UserError(f"--picture must end in {' or '.join(PICTURE_TYPES)}; got {options.picture}")
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError("--picture needs matplotlib, which is not installed: pip install 'dat-engine[dev]'")


def _try_to_write(path: Path, name: str) -> None:
    """Open the file as it will be opened in the end, which alone tells of every reason why it cannot be written."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(f"--{name} {path} cannot be written: {(error.strerror or str(error)).lower()}") from None


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def _title(recipe: Recipe, device: torch.device) -> str:
    threads = f"CPU, {torch.get_num_threads()} threads"
    return f"{recipe.name}, {torch.cuda.get_device_name(device) if device.type == 'cuda' else threads}"
