"""A training state as one safetensors file: written durably, verified on load, read without executing anything.

File format, version 1. The header's metadata hold `state`, the JSON text of state_tree.py, and `sha256` over the
version, that text, and name, dtype, shape and bytes of every tensor; the file's tensors are the tensors of the state.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dat_engine.errors import UserError
from dat_engine.run.durable_file import refuse_link, remove_leftovers, replacing, sync_directory
from dat_engine.run.state_tree import DTYPE_NAMES, put_together, take_apart

FORMAT_VERSION = 1

_LARGEST_HEADER = 100_000_000  # bytes; the limit of every safetensors reader
_VERSION_KEY = "dat_engine_checkpoint"
_STEP_FILE = re.compile(r"step-(\d{8,})\.safetensors")


class CheckpointError(UserError):
    """A checkpoint cannot be read or written; the message is one sentence that names the file."""


class CheckpointFormatError(CheckpointError):
    """A checkpoint of another format version: nothing is wrong with the file, this version cannot read it."""


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path`, durably: after this returns it survives a power cut, and until then `path` is untouched.

    `state` is a nested dict (keys str or int), list or tuple of tensors (any device, strides and sharing; bool, integer
    and real floating dtypes), str, int, float (inf and nan too), bool and None; subclasses of these are stored as their
    base. Tensors come back contiguous, with storage of their own, and without requires_grad.

    Raises TypeError, before anything is written, for anything else in `state`; CheckpointError when the disk is full or
    the file cannot be written.
    """
    path = Path(path)
    text, tensors = take_apart(state)
    # the widest elements first, so that every tensor begins at a multiple of its element size
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries: dict[str, Any] = {
        "__metadata__": {_VERSION_KEY: str(FORMAT_VERSION), "state": text, "sha256": _digest(text, tensors)}
    }
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        dtype, shape = DTYPE_NAMES[tensors[name].dtype], list(tensors[name].shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _LARGEST_HEADER:
        raise ValueError(
            f"the part of the state that is not tensors takes {len(header)} bytes, a checkpoint holds "
            f"{_LARGEST_HEADER}; keep long lists of numbers as tensors"
        )
    try:
        with replacing(path) as file:
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            for name in names:
                file.write(_bytes_of(tensors[name]))
    except OSError as error:
        raise CheckpointError(_why_unwritten(path, 8 + len(header) + end, error)) from error


def load(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read and verify what `save` wrote, with all tensors on `device`.

    Raises CheckpointError for a file that is missing, truncated, damaged, of another kind or of a newer format.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            text = _checked_text(path, metadata)
            # cloned: safetensors may hand out views of the mapped file, which change with it and lie unaligned
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(_why_unreadable(path)) from error
    known = all(tensor.dtype in DTYPE_NAMES for tensor in tensors.values())
    if not known or _digest(text, tensors) != metadata["sha256"]:
        raise CheckpointError(f"the checkpoint {path} is damaged: its checksum does not match its content")
    try:
        state = put_together(text, {name: tensor.to(device) for name, tensor in tensors.items()})
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged: its list of contents cannot be read") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"the checkpoint {path} is damaged: it holds a {type(state).__name__} in place of a dict")
    return state


class CheckpointFolder:
    """The checkpoints of one run: `step-<8 digits>.safetensors`, of which `keep` remain, and `best.safetensors`."""

    def __init__(self, path: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep} would leave no checkpoint to resume from; keep at least 1, better 2")
        self.path = Path(path)
        self.keep = keep

    @property
    def best_path(self) -> Path:
        return self.path / "best.safetensors"

    def step_paths(self) -> list[Path]:
        """The step checkpoints, newest (highest step) first; empty where there is none or no folder yet."""
        found = [file for file in self.path.glob("step-*") if _STEP_FILE.fullmatch(file.name)]
        return sorted(found, key=_step_of, reverse=True)

    def save(self, state: Mapping[str, Any], *, step: int, epoch: int) -> Path:
        """Write `state`, with `step` and `epoch` added, and only then delete what is no longer kept.

        Checkpoints of a higher step go too: they can only be damaged ones that the run has fallen back from.
        Raises CheckpointError when it cannot be written; every older checkpoint is then still there.
        """
        path = self.path / f"step-{step:08d}.safetensors"
        self._write(path, {**state, "step": step, "epoch": epoch})
        before = [older for older in self.step_paths() if _step_of(older) < step]
        kept = {path, *before[: self.keep - 1]}
        for obsolete in set(self.step_paths()) - kept:
            with contextlib.suppress(OSError):  # the new one is safe; a file too many is no reason to stop
                obsolete.unlink()
        return path

    def save_best(self, state: Mapping[str, Any]) -> Path:
        """Write `state` as the best checkpoint, in place of the one before."""
        self._write(self.best_path, state)
        return self.best_path

    def load_newest(self, *, device: str | torch.device = "cpu") -> tuple[dict[str, Any], Path]:
        """The newest checkpoint that is whole, and its path; a RuntimeWarning names each newer one that is not.

        Raises CheckpointError when the folder has no checkpoint or none of them can be read, and CheckpointFormatError
        as soon as one has another format: falling back from a good checkpoint would throw its steps away.
        """
        paths = self.step_paths()
        if not paths:
            raise CheckpointError(f"there is no checkpoint in {self.path}")
        faults = []
        for path, older in zip(paths, [*paths[1:], None], strict=True):
            try:
                return load(path, device=device), path
            except CheckpointFormatError:
                raise
            except CheckpointError as error:
                faults.append(str(error))
                if older is not None:
                    warnings.warn(f"{error}; falling back to {older.name}", RuntimeWarning, stacklevel=2)
        raise CheckpointError(f"no checkpoint in {self.path} can be read: " + "; ".join(faults))

    def load_selected(self, *, device: str | torch.device = "cpu") -> tuple[dict[str, Any], Path]:
        """The best checkpoint where one was selected, else the newest, and its path.

        A damaged best checkpoint does not undo a training: the newest stands in for it, with a RuntimeWarning that names it.
        Raises CheckpointError and CheckpointFormatError as `load_newest` does.
        """
        if os.path.lexists(self.best_path):
            try:
                return self.load_best(device=device), self.best_path
            except CheckpointFormatError:
                raise
            except CheckpointError as error:
                if not self.step_paths():
                    raise
                warnings.warn(f"{error}; the newest checkpoint stands in for it", RuntimeWarning, stacklevel=2)
        return self.load_newest(device=device)

    def load_best(self, *, device: str | torch.device = "cpu") -> dict[str, Any]:
        """The state that `save_best` wrote last. Raises CheckpointError as `load` does."""
        return load(self.best_path, device=device)

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        try:
            refuse_link(self.path)
            if not self.path.is_dir():
                # without its parents: a run directory that was removed meanwhile does not come back as half of one
                self.path.mkdir(exist_ok=True)
                sync_directory(self.path.parent)
            remove_leftovers(self.path)
        except OSError as error:
            raise CheckpointError(_why_unwritten(path, None, error)) from error
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        save(path, state)


def _step_of(path: Path) -> int:
    match = _STEP_FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, text]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, DTYPE_NAMES[tensor.dtype], list(tensor.shape)]).encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _checked_text(path: Path, metadata: Mapping[str, str]) -> str:
    version = metadata.get(_VERSION_KEY, "")
    if not re.fullmatch("[0-9]{1,9}", version) or not {"state", "sha256"} <= metadata.keys():
        raise CheckpointError(f"{path} is not a checkpoint of this engine: a safetensors file, but without its header")
    if int(version) != FORMAT_VERSION:
        raise CheckpointFormatError(
            f"the checkpoint {path} has format {version} and this dat-engine reads format {FORMAT_VERSION}; "
            "use the version of dat-engine that wrote it, or a newer one"
        )
    return metadata["state"]


def _why_unreadable(path: Path) -> str:
    """The sentence for a file that safetensors refuses; looks at lengths only."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        if size < 8:
            return f"the checkpoint {path} is truncated: it has {size} bytes"
        if header_length > _LARGEST_HEADER:
            return f"{path} is not a checkpoint: it is no safetensors file"
        needed = 8 + header_length
        if size >= needed:
            try:
                header = json.loads(file.read(header_length))
                header.pop("__metadata__", None)
                needed += max((entry["data_offsets"][1] for entry in header.values()), default=0)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                return f"the checkpoint {path} is damaged: its header cannot be read"
    if size < needed:
        return f"the checkpoint {path} is truncated: it has {size} bytes of {needed}"
    return f"the checkpoint {path} is damaged: its header does not describe its content"


def _why_unwritten(path: Path, size: int | None, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        how_large = "" if size is None else f" ({size / 2**20:.1f} MiB)"
        return (
            f"no space left on the disk, or no file names, for the checkpoint {path}{how_large}; "
            "the older checkpoints are whole: free some and go on with --resume"
        )
    if not os.path.lexists(path.parent.parent):
        return f"cannot write the checkpoint {path}: {path.parent.parent} has been removed while the run wrote into it"
    return f"cannot write the checkpoint {path}: {error.strerror or error}; the older checkpoints are whole"
