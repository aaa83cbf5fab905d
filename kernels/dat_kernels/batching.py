"""torch.func.vmap for operations that treat samples independently: the mapped dimension joins the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def register_batching(operation: Any) -> None:
    """Register the rule for a custom op all of whose tensors of at least one dimension begin with the batch.

    A mapped tensor of 0 dimensions per call holds the same value for all samples of a call; the operation gets it as
    one value per sample and must take that. A scalar tensor that is not mapped stays one.
    """

    def rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        mapped, samples = info.batch_size, _samples_per_call(in_dims, arguments)
        result = operation(*(_join(a, dim, mapped, samples) for a, dim in zip(arguments, in_dims, strict=True)))
        if isinstance(result, tuple):
            return tuple(_split(tensor, mapped) for tensor in result), (0,) * len(result)
        return _split(result, mapped), 0

    torch.library.register_vmap(operation, rule)


def _samples_per_call(in_dims: Sequence[int | None], arguments: Sequence[Any]) -> int:
    """The batch of the first tensor, an image of every such operation, without its mapped dimension."""
    tensor, dim = next((a, dim) for a, dim in zip(arguments, in_dims, strict=True) if isinstance(a, Tensor))
    return int(tensor.shape[0] if dim is None else tensor.movedim(dim, 0).shape[1])


def _join(argument: Any, dim: int | None, mapped: int, samples: int) -> Any:
    if not isinstance(argument, Tensor) or (dim is None and argument.dim() == 0):
        return argument
    tensor = argument.expand(mapped, *argument.shape) if dim is None else argument.movedim(dim, 0)
    if tensor.dim() == 1:
        tensor = tensor[:, None].expand(mapped, samples)
    return tensor.reshape(tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])


def _split(tensor: Tensor, mapped: int) -> Tensor:
    return tensor.reshape(mapped, tensor.shape[0] // mapped, *tensor.shape[1:])
