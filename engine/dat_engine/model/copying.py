"""Copies of modules, and what in a module a copy or a rewrite would not carry over."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def independent_copy(module: AnyModule, memo: dict[int, Any] | None = None) -> AnyModule:
    """A copy that shares no tensor with `module`, hooks and parametrisations included.

    `copy.deepcopy` refuses tensors that autograd computed, which is what hook-based weight and spectral norm and pruning
    leave in a layer; the copy starts from their values, and its own hooks compute them anew.

    Args:
        memo: of `copy.deepcopy`; what several modules share stays shared by copies made with one memo.
    """
    memo = {} if memo is None else memo
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return deepcopy(module, memo)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling `module` does more than its ``forward``."""
    return any(getattr(module, name, None) for name in _HOOKS)


def acts_as_its_type(module: nn.Module) -> bool:
    """Whether `module` does what its class says with the parameters that it holds, and nothing else.

    Not so with hooks (weight and spectral norm of the older kind, pruning), parametrisations, or a ``forward`` of its own.
    """
    return not has_hooks(module) and not parametrize.is_parametrized(module) and "forward" not in vars(module)
