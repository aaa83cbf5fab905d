"""Same seed, same bits: torch's deterministic algorithms for as long as a run lasts, and a sentence where there is none.

What that promises, and what it does not, is in docs/guide/long-runs.md. The engine's own kernels add nothing atomically, its
loaders draw every random number from seed, epoch and image, and its Triton kernels are not tuned by trial.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dat_engine.errors import RunFailedError, UserError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")


def reserve_workspaces() -> None:
    """Have cuBLAS keep workspaces of its own per stream; before the first matrix product on a GPU.

    Raises:
        UserError: the environment asks for another configuration.
    """
    given = os.environ.setdefault(_WORKSPACE, _DETERMINISTIC_WORKSPACES[0])
    if given not in _DETERMINISTIC_WORKSPACES:
        raise UserError(
            f"--deterministic needs {_WORKSPACE} to be {' or '.join(_DETERMINISTIC_WORKSPACES)}, not {given!r}; unset it"
        )


@contextmanager
def deterministic(asked: bool = True) -> Iterator[None]:
    """Deterministic algorithms within the context where `asked`; what was set before comes back afterwards.

    Raises:
        UserError: as `reserve_workspaces`.
        RunFailedError: torch met an operation that it has no deterministic algorithm for.
    """
    if not asked:
        yield
        return
    reserve_workspaces()
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        match = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if match is None:
            raise
        raise RunFailedError(
            f"torch has no deterministic algorithm for {match[1]} on this device; train without --deterministic, or with a "
            "network that does without that operation"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before[2:]
