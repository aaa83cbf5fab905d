"""Replace a file so that a crash or a power cut leaves either the old content or the new one, whole."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dat_engine.errors import UserError

_PARTIAL = ".partial"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file to write the new content of `path` into; it takes the name `path` only once it is on disk.

    The content goes to a hidden temporary beside `path`, is flushed and fsynced, renamed over `path`, and the directory
    is fsynced. Any exception, from the block or from the disk, removes the temporary, leaves `path` as it was and is
    raised on. Only a killed process leaves its temporary behind; `remove_leftovers` clears those.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def refuse_link(path: Path) -> None:
    """Raise UserError when `path`, which is about to be written (in), is a symbolic link, dangling or not.

    Whoever hands over a run directory could otherwise have any file of the user overwritten.
    """
    if os.path.islink(path):  # Path.is_symlink raises where a directory on the way may not be searched
        raise UserError(
            f"{path} is a symbolic link, and nothing in a run directory is written through links; "
            "put what it points to in its place, or use another --run-dir"
        )


def remove_leftovers(folder: Path) -> None:
    """Delete the temporaries of killed writers in `folder`. Only for the process that alone writes there."""
    for leftover in folder.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            leftover.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """Make the names in `folder` durable, as fsync does for a file's content."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems have no fsync for directories; the rename is then as durable as they make it
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
