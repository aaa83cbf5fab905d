"""A copy of a training state that later steps do not change, on its way to the host while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """Taken in the step's thread, between two steps; read in another one by `on_host`.

    Tensors of a CPU are cloned. Those of a GPU are cloned on the device, in the order of the stream that the steps run on,
    and travel from there to pinned memory on a stream of their own: the steps that follow wait for neither. That takes as
    much device memory again as the state, until it has arrived.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        devices = sorted({tensor.device.index for tensor in _tensors(state) if tensor.device.type == "cuda"})
        self._sides = {index: torch.cuda.Stream(index) for index in devices}
        clones = _mapped(state, lambda tensor: tensor.detach().clone())
        for index, side in self._sides.items():
            side.wait_stream(torch.cuda.current_stream(index))
        self._state = _mapped(clones, self._sent)
        self._arrivals = [side.record_event() for side in self._sides.values()]

    def _sent(self, clone: Tensor) -> Tensor:
        if clone.device.type != "cuda":
            return clone
        side = self._sides[clone.device.index]
        # copied stride for stride: another order of elements would be a kernel, and a transfer that waits
        host = torch.empty_like(clone, device="cpu", pin_memory=True)
        with torch.cuda.stream(side):
            host.copy_(clone, non_blocking=True)
        # its memory is handed out again only after the copy, though the clone is forgotten here
        clone.record_stream(side)
        return host

    def on_host(self) -> dict[str, Any]:
        """The state with all tensors on the CPU; waits for them. From any thread."""
        for arrival in self._arrivals:
            arrival.synchronize()
        return self._state


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(entry, change) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(entry, change) for entry in value)
    if isinstance(value, list):
        return [_mapped(entry, change) for entry in value]
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for entry in entries for tensor in _tensors(entry)]
