"""A process that ends with the one that started it, however that one ends."""

import ctypes
import os
import signal
import sys

STARTED_BY = "DAT_STARTED_BY"
"""In the environment of a process: the number of the one that started it and that it is to end with."""
_PR_SET_PDEATHSIG = 1


def ends_with(parent: int, number: int) -> bool:
    """Have the system send this process the signal `number` when `parent`, which started it, ends; on Linux alone.

    Returns False where that one has ended already: nothing will be sent then.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    return os.getppid() == parent


def obey_starter() -> None:
    """Take the end of the process that `STARTED_BY` names for a SIGTERM; nothing where it names none."""
    starter = os.environ.pop(STARTED_BY, "")  # not for the processes that this one starts
    if starter.isdigit() and not ends_with(int(starter), signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
