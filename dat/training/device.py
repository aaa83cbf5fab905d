"""Which device a command computes on."""

from __future__ import annotations

import os

import torch

from dat_engine.errors import UserError


def choose_device(name: str | None) -> torch.device:
    """``"cpu"``, ``"cuda"`` or ``"cuda:1"`` -> device, made the current one; None: the GPU where there is one.

    Under torchrun ``"cuda"`` is each process's own GPU.

    Raises:
        UserError: a device that is not there.
    """
    device = find_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def find_device(name: str | None) -> torch.device:
    """`choose_device`, but that nothing begins to use it: a GPU may be there for other processes alone.

    Raises:
        UserError: a device that is not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device is called {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index >= found:
            raise UserError(f"device {name} is not there: torch {torch.__version__} sees {found} CUDA devices; use cpu")
    elif device.type != "cpu":
        raise UserError(f"device {name} is not supported; use cpu or cuda")
    return device
