"""Adversarial weight perturbation as its paper and published codes have it, one tensor at a time, in float64.

Weights are dicts by name. None of the engine is used.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def perturbed_weights(
    weights: Tensors, loss: Callable[[Tensors], Tensor], *, gamma: float, learning_rate: float
) -> dict[str, Tensor]:
    """Wu et al. (2020): a copy takes one step of SGD up the loss; what it moved by, per tensor, is scaled to gamma |w|."""
    proxy = {name: copy.deepcopy(weight.detach().double()).requires_grad_() for name, weight in weights.items()}
    optimizer = torch.optim.SGD(proxy.values(), lr=learning_rate)
    (-loss(proxy)).backward()
    optimizer.step()
    moved = {}
    for name, weight in weights.items():
        old = weight.detach().double()
        if old.ndim <= 1:
            moved[name] = old
            continue
        difference = proxy[name].detach() - old
        direction = old.norm() / (difference.norm() + 1e-20) * difference
        moved[name] = old + gamma * direction
    return moved
