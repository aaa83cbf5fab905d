"""The compute-dtype copies of weights that an attack model keeps, for the joint pass too: each weight is converted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dat_engine import private_torch


def differentiable_copies(model: nn.Module, copies: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`copies` of parameters of `model`, by their names, as functions of those parameters: for `torch.func.functional_call`.

    A gradient goes back in the parameter's own dtype and strides, all of them converted by one operation on a list; it
    accumulates in the parameter's ``.grad`` as that of a cast does. Copies of frozen parameters are constants.
    """
    masters = {name: model.get_parameter(name) for name in copies}
    trained = [name for name, master in masters.items() if master.requires_grad]
    functions = _Copies.apply([copies[name] for name in trained], *(masters[name] for name in trained))
    return {**copies, **dict(zip(trained, functions, strict=True))}


@torch.no_grad()
def renew(model: nn.Module, copies: Mapping[str, Tensor]) -> None:
    """Bring `copies` up to date with the parameters of `model`, in place."""
    private_torch.copy_all_(list(copies.values()), [model.get_parameter(name) for name in copies])


class _Copies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, copies: Sequence[Tensor], *masters: Tensor) -> tuple[Tensor, ...]:
        # the parameters themselves may be moved before the backward pass: only what they look like counts
        ctx.masters = [master.detach() for master in masters]
        ctx.set_materialize_grads(False)
        return tuple(copy.detach() for copy in copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = [index for index, gradient in enumerate(gradients) if gradient is not None]
        converted = [torch.empty_like(ctx.masters[index]) for index in found]
        private_torch.copy_all_(converted, [gradient for gradient in gradients if gradient is not None])
        of_masters: list[Tensor | None] = [None] * len(gradients)
        for index, gradient in zip(found, converted, strict=True):
            of_masters[index] = gradient
        return None, *of_masters
