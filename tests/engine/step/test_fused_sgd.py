"""torch's fused SGD and, where it is installed, NVIDIA apex's, as the engine uses them, against SGD in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from dat_engine.step.apex_sgd import why_unusable
from dat_engine.step.optimizers import SGDSettings, set_learning_rate, sgd, step_unless
from tests.conftest import device_or_skip

SHAPES = ((64, 3, 3, 3), (10, 512), (128, 64, 1, 1), (64,))
STEPS = ((0.0, 0.1), (1.0, 0.1), (0.0, 0.1), (0.0, 0.05))
"""Whether the step is to be left out, and the learning rate."""
BOTH = [
    pytest.param("cpu", "torch"),
    *(pytest.param("cuda", implementation, marks=pytest.mark.gpu) for implementation in ("torch", "apex")),
]


@pytest.mark.gate("optimizer: {implementation}'s fused SGD = SGD in float64")
@pytest.mark.parametrize(("where", "implementation"), BOTH)
def test_equals_sgd_in_float64(where, implementation, record_property):
    """Four steps, one of them left out, the rate changed; both directions, both kinds of momentum."""
    device, worst = device_or_skip(where), 0.0
    if implementation == "apex" and why_unusable() is not None:
        pytest.skip(str(why_unusable()))
    for maximize, nesterov in itertools.product((False, True), repeat=2):
        generator = torch.Generator().manual_seed(0)
        start = [torch.randn(shape, generator=generator) for shape in SHAPES]
        weights = [nn.Parameter(_channels_last(tensor.to(device))) for tensor in start]
        exact = [nn.Parameter(tensor.double()) for tensor in start]
        values = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": nesterov}
        settings = SGDSettings(learning_rate=0.1, implementation=implementation, **values)
        optimizer = sgd(weights, settings, maximize=maximize)
        reference = torch.optim.SGD(exact, lr=0.1, maximize=maximize, fused=False, **values)
        for left_out, rate in STEPS:
            set_learning_rate(optimizer, rate)
            reference.param_groups[0]["lr"] = rate
            for weight, true in zip(weights, exact, strict=True):
                gradient = torch.randn(weight.shape, generator=generator)
                weight.grad = torch.empty_like(weight).copy_(gradient)
                true.grad = gradient.double()
            step_unless(optimizer, torch.tensor(left_out, device=device))
            if not left_out:
                reference.step()
        errors = [
            float((w.detach().cpu().double() - t.detach()).abs().max()) for w, t in zip(weights, exact, strict=True)
        ]
        worst = max(worst, *errors)
    record_property("note", f"error {worst:.1e}")
    assert worst < 1e-5


@pytest.mark.gpu
@pytest.mark.gate("optimizer: torch's fused SGD follows rate and skipping inside a graph")
def test_follows_rate_and_skipping_inside_a_graph():
    """On a GPU alone: the CPU has no graphs."""
    weight = nn.Parameter(torch.ones(1000, device=device_or_skip("cuda")))
    optimizer = sgd([weight], SGDSettings(learning_rate=0.5, momentum=0.0, weight_decay=0.0))
    weight.grad, found = torch.ones_like(weight), torch.zeros((), device=weight.device)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        step_unless(optimizer, found)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step_unless(optimizer, found)
    for rate, skip, expected in ((0.25, 0.0, 0.25), (0.25, 1.0, 0.25), (0.125, 0.0, 0.125)):
        set_learning_rate(optimizer, rate)
        found.fill_(skip)
        graph.replay()
        assert (weight == expected).all()


def _channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
