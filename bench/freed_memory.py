"""Keep memory that tensors give back, so that a CPU benchmark times computation rather than fresh pages.

By default glibc returns large blocks to the system, depending on what the process did before. Eager PyTorch, which makes
several large tensors a call, then pays for page faults, by turns and by up to half its time; a fused kernel hardly does.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""glibc takes no more on 64-bit machines; larger tensors still get fresh pages."""


def keep_freed_memory() -> None:
    """Set it for this process where the C library is glibc; do nothing elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
