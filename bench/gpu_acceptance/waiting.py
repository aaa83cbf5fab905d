"""Where the host may not wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.gpu_acceptance.setting import Setting


@contextmanager
def waiting_is_an_error(setting: Setting) -> Iterator[None]:
    """Whatever waits for the device inside raises; on the CPU, in a rehearsal, nothing does."""
    if setting.rehearsal:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
