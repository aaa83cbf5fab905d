"""Optimisers: fused kernels are given what they silently rely on."""

import pytest
import torch
from torch import nn

from engine.optim import SGDSettings, give_gradients, sgd


@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_of_other_strides_reach_their_own_weights(maximize):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, 3, 3, generator=generator)
    fused = nn.Parameter(start.clone(memory_format=torch.channels_last))
    plain = nn.Parameter(start.clone())
    settings = SGDSettings(learning_rate=0.1, weight_decay=0.01)
    optimizer = sgd([fused], settings, maximize=maximize)
    reference = torch.optim.SGD([plain], lr=0.1, momentum=0.9, weight_decay=0.01, maximize=maximize, fused=False)
    for _ in range(3):
        gradient = torch.randn(4, 3, 3, 3, generator=generator)
        give_gradients([fused], [gradient])
        assert fused.grad.stride() == fused.stride()
        plain.grad = gradient
        optimizer.step()
        reference.step()
    torch.testing.assert_close(fused, plain)


def test_gradients_that_fit_are_not_copied():
    weight = nn.Parameter(torch.ones(5, 3, 1, 1).contiguous(memory_format=torch.channels_last))
    gradient = torch.ones(5, 3, 1, 1)  # other strides, but only of dimensions of size 1: the same walk through memory
    give_gradients([weight], [gradient])
    assert weight.grad is gradient
