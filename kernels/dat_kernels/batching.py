"""torch.func.vmap for operations that treat samples independently: the mapped dimension joins the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def register_batching(operation: Any) -> None:
    """Register the rule for a custom op all of whose tensors of at least one dimension begin with the batch.

    Scalar tensors (0 dimensions per sample of the map) must not be mapped.
    """

    def rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        mapped = info.batch_size
        result = operation(*(_join(a, dim, mapped) for a, dim in zip(arguments, in_dims, strict=True)))
        if isinstance(result, tuple):
            return tuple(_split(tensor, mapped) for tensor in result), (0,) * len(result)
        return _split(result, mapped), 0

    torch.library.register_vmap(operation, rule)


def _join(argument: Any, dim: int | None, mapped: int) -> Any:
    if not isinstance(argument, Tensor) or (dim is None and argument.dim() == 0):
        return argument
    tensor = argument.expand(mapped, *argument.shape) if dim is None else argument.movedim(dim, 0)
    if tensor.dim() == 1:
        raise ValueError("vmap over a scalar argument of a kernel is not supported; call the kernel once per value")
    return tensor.reshape(tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])


def _split(tensor: Tensor, mapped: int) -> Tensor:
    return tensor.reshape(mapped, tensor.shape[0] // mapped, *tensor.shape[1:])
