"""Where the host may not wait for the device."""

import contextlib

import torch


@contextlib.contextmanager
def waiting_is_an_error(device):
    """Whatever waits for the device inside raises; on the CPU nothing does."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
