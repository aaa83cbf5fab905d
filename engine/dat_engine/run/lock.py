"""A lock on a directory that the kernel drops when its holder dies, however it dies."""

import contextlib
import errno
import os
import warnings
from pathlib import Path

from filelock import FileLock, Timeout

from dat_engine.errors import UserError
from dat_engine.run.durable_file import refuse_link

_NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class RunLock:
    """Exclusive use of `directory` by one process, through a lock on `directory/.lock`, which is never deleted.

    filelock closes its descriptor in forked children, so that the lock of a killed trainer does not last as long as its
    slowest loader worker.

    Raises UserError, naming the holder, when another process (or another RunLock of this one) has it, and when `.lock`
    is a symbolic link; OSError when the file cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / ".lock"
        refuse_link(path)
        # no soft lock in place of a missing flock: that one outlives a killed holder
        self._lock = FileLock(
            path, blocking=False, thread_local=False, fallback_to_soft=False, on_acquired=_name_the_holder
        )
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"the run directory {directory} is in use by {_in_words(_holder(path))}; stop that run first, or "
                "use another --run-dir"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            warnings.warn(
                f"the file system of {directory} has no locks: nothing stops a second process from training there",
                RuntimeWarning,
                stacklevel=2,
            )

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        self._lock.release()


def holder_of(directory: Path) -> str | None:
    """Who has the lock on `directory`, as a sentence calls it; None where nobody has, or nobody can be seen to."""
    path = directory / ".lock"
    if not path.is_file():
        return None
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return _in_words(_holder(path))
    except OSError:
        return None
    lock.release()
    return None


def _name_the_holder(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # on a full disk the holder goes unnamed
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(32).decode(errors="replace").strip()
    return ""


def _in_words(holder: str) -> str:
    return f"process {holder}" if holder.isdigit() else "another process"
