"""A number that lives on the device, seen by the host without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """The newest value of a device scalar that has come over; on a CPU the value itself.

    Args:
        source: integer scalar that later work on its device changes in place.
        arrival: marks when a copy has come over; by default an event on a GPU, and nothing on a CPU.
    """

    def __init__(self, source: Tensor, *, arrival: torch.cuda.Event | None = None) -> None:
        on_gpu = source.device.type == "cuda"
        self._source = source
        self._on_gpu = on_gpu
        self._arrival = torch.cuda.Event() if arrival is None and on_gpu else arrival
        # pinned: a copy to pageable memory would wait for the device
        self._host = torch.zeros(source.shape, dtype=source.dtype, pin_memory=on_gpu)
        self._under_way = False

    def latest(self) -> int | None:
        """What the last copy brought, after which the next one is sent; None while it is still under way."""
        if self._arrival is None:
            return int(self._source)
        value = None
        if self._under_way:
            if not self._arrival.query():
                return None
            value = int(self._host)
        self._host.copy_(self._source, non_blocking=True)
        self._arrival.record(torch.cuda.current_stream(self._source.device) if self._on_gpu else None)
        self._under_way = True
        return value

    def forget(self) -> None:
        """Drop the copy that is under way: the host has changed the source itself."""
        if self._arrival is not None and self._under_way:
            self._arrival.synchronize()
        self._under_way = False
