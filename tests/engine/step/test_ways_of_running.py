"""The uncaptured step run one way and another: on streams or in one batch, compiled or eager, and in half precision."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from tests.conftest import device_or_skip
from tests.engine.step.whole_steps import (
    RATE,
    batches,
    differing,
    exact_float32,
    on_gpu,
    state_of,
    train,
    training_step,
    update_difference,
)
from tests.kernels.steps import assert_same_bits

pytestmark = pytest.mark.usefixtures("repeatable_convolutions")


@pytest.mark.gate("step: groups on streams of their own = one grouped batch")
def test_groups_on_streams_of_their_own_equal_one_grouped_batch(device, record_property):
    given, rates = batches(device, 2), [RATE] * 2
    steps = {branching: training_step(device, branching=branching) for branching in ("folded", "grouped")}
    before = state_of(steps["folded"])
    with exact_float32():
        losses = {name: train(step, step, given, rates) for name, step in steps.items()}
    first = abs(losses["folded"][0] / losses["grouped"][0] - 1)
    difference = update_difference(before, state_of(steps["folded"]), state_of(steps["grouped"]))
    record_property("note", f"first loss within {first:.1e}, movement within {difference:.2%}")
    assert first < 1e-4
    # sign gradients near zero fall either way: a tenth of the update is far above that and far below a wrong branch
    assert difference < 0.1


@pytest.mark.gate("step: groups on streams give the same bits every time")
def test_groups_on_streams_give_the_same_bits_every_time(device):
    """Logits and image gradients of both groups, many times over, with memory handed round in between."""
    attack_model = training_step(device, precision="bf16", branching="folded").attack_model
    (batch,) = batches(device, 1, size=on_gpu(device, 256, 4))
    first = None
    for _ in range(on_gpu(device, 30, 2)):
        inputs = batch.images.to(torch.bfloat16, memory_format=torch.channels_last, copy=True).requires_grad_()
        logits = attack_model.logits(inputs, ("base", "mix"))
        (gradient,) = torch.autograd.grad(logits.square().sum(), inputs)
        junk = torch.full_like(gradient, math.nan)
        first = first or (logits.detach().clone(), gradient.clone())
        assert_same_bits(logits.detach(), first[0])
        assert_same_bits(gradient, first[1])
        del junk


COMPILED = [
    *(pytest.param("cpu", "fp32", branching, marks=pytest.mark.slow) for branching in ("folded", "grouped")),
    *(
        pytest.param("cuda", precision, branching, marks=pytest.mark.gpu)
        for precision, branching in (("fp32", "grouped"), ("bf16", "grouped"), ("bf16", "folded"), ("fp16", "grouped"))
    ),
]


@pytest.mark.gate("step: compiled = eager, {precision}, {branching}")
@pytest.mark.parametrize(("where", "precision", "branching"), COMPILED)
def test_compiled_follows_eager_and_compiles_once(where, precision, branching, record_property):
    """First loss, then the movement of all weights over three steps; and nothing is compiled after the first step."""
    from torch._dynamo.utils import counters

    device = device_or_skip(where)
    torch._dynamo.reset()
    counters.clear()
    given, rates = batches(device, 3), [RATE, RATE / 2, RATE]
    compiled = training_step(device, precision=precision, branching=branching, compiled=True)
    eager = training_step(device, precision=precision, branching=branching)
    before = state_of(eager)
    with exact_float32():
        losses = train(compiled, compiled, given[:1], rates[:1])
        graphs = counters["stats"]["unique_graphs"]
        losses += train(compiled, compiled, given[1:], rates[1:])
        assert counters["stats"]["unique_graphs"] == graphs
        expected = train(eager, eager, given, rates)
    first = abs(losses[0] / expected[0] - 1)
    difference = update_difference(before, state_of(eager), state_of(compiled))
    record_property("note", f"first loss within {first:.1e}, movement within {difference:.2%}, {graphs} graphs")
    assert graphs >= 4  # view of base and mix, joint forward, losses
    assert first < (1e-4 if precision == "fp32" else 1e-2)
    assert difference < (0.1 if precision == "fp32" else 0.4)


@pytest.mark.gate("step: gradients lie in memory as their parameters do, none twice")
def test_gradients_lie_in_memory_as_their_parameters_do_and_none_twice(device, record_property):
    """Fused optimizers walk weights and gradients side by side as flat memory and unscale gradients in place."""
    for compiled, precision in itertools.product(on_gpu(device, (False, True), (False,)), ("bf16", "fp16")):
        if compiled:
            torch._dynamo.reset()
        step = training_step(device, precision=precision, compiled=compiled)
        step(batches(device, 1)[0])
        parameters = [parameter for seat in (*step.own_seats, *step.other_seats) for parameter in seat.parameters]
        for parameter in parameters:
            strides = zip(parameter.shape, parameter.stride(), parameter.grad.stride(), strict=True)
            assert all(own == other for size, own, other in strides if size != 1)
        assert len({parameter.grad.data_ptr() for parameter in parameters}) == len(parameters)
    record_property("note", f"{len(parameters)} gradients")


@pytest.mark.gate("step: fp16 halves its scale on overflow and changes nothing")
def test_fp16_halves_its_scale_on_overflow_and_changes_nothing(device):
    step = training_step(device, precision="fp16")
    good, bad = batches(device, 2)
    assert not step(good)["skipped"]
    before, scale = state_of(step), float(step.guard.state_dict()["scale"])
    assert step(replace(bad, images=torch.full_like(bad.images, math.nan)))["skipped"]
    assert float(step.guard.state_dict()["scale"]) == scale / 2
    assert not differing(before, state_of(step))
