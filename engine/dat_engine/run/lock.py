"""A lock on a directory that the kernel drops when its holder dies, however it dies."""

import contextlib
import errno
import fcntl
import os
import warnings
from pathlib import Path

from dat_engine.errors import UserError

_held: set[int] = set()


class RunLock:
    """Exclusive use of `directory` by one process, through flock on `directory/.lock`, which is never deleted.

    Raises ValueError, naming the holder, when another process (or another RunLock of this one) has it.
    """

    def __init__(self, directory: Path) -> None:
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            by = f"process {holder}" if holder.isdigit() else "another process"
            raise UserError(
                f"the run directory {directory} is in use by {by}; stop that run first, or use another --run-dir"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                os.close(descriptor)
                raise
            warnings.warn(
                f"the file system of {directory} has no locks: nothing stops a second process from training there",
                RuntimeWarning,
                stacklevel=2,
            )
        with contextlib.suppress(OSError):  # on a full disk the holder goes unnamed
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor: int | None = descriptor
        _held.add(descriptor)

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        if self._descriptor is not None and self._descriptor in _held:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None


def _close_in_child() -> None:
    # flock belongs to the open file, which a forked loader worker would share: the lock of a killed trainer
    # would then last as long as its slowest worker
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)
