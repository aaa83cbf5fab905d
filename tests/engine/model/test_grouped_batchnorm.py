"""All groups normalised at once: the same as one after the other, wherever it is done, and not done where it would not be."""

import copy

import pytest
import torch
from torch import nn

from dat_engine.model.branches import branch_layout, convert_batchnorm, normalise_at_once, uncounted_batches
from dat_engine.model.grouped_batchnorm import all_plain, normalise_groups

LAYOUTS = [("base", "base", "mix", "mix"), ("base", "mix", "base", "base"), ("mix", "base")]


def norms(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = convert_batchnorm(nn.Sequential(nn.BatchNorm2d(5))).to(dtype).train()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_one_normalisation_is_the_groups_one_after_the_other(layout, memory_format):
    one, other = norms(), norms()
    features = torch.randn(4 * len(layout), 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features = (3 * features + 2).contiguous(memory_format=memory_format)
    inputs = [features.clone().requires_grad_() for _ in range(2)]
    with branch_layout(one, layout):
        expected = one(inputs[0])
    given = normalise_groups(inputs[1], other[0], layout)
    weights = torch.randn_like(expected)
    expected.backward(weights)
    given.backward(weights)
    close = {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(given, expected, **close)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, **close)
    for (name, ours), theirs in zip(other.named_parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **close, msg=name)
    for name, buffer in other.named_buffers():
        if "num_batches_tracked" not in name:
            torch.testing.assert_close(buffer, one.get_buffer(name), **close, msg=name)


def test_compiled_code_does_so_where_it_is_asked_to_and_leaves_the_counters():
    features, layout = torch.randn(8, 5, 3, 3, dtype=torch.float64), LAYOUTS[0]
    counts = {}
    for asked in (False, True):
        model = norms()
        if asked:
            normalise_at_once(model)
        torch._dynamo.reset()
        with branch_layout(model, layout):
            torch.compile(model, backend="aot_eager", fullgraph=True)(features)
        counts[asked] = [int(model[0][branch].num_batches_tracked) for branch in ("base", "mix")]
        left, amounts = uncounted_batches(model, layout)
        assert len(left) == (2 if asked else 0)
        assert amounts == [2, 2] * asked
    assert counts == {False: [2, 2], True: [0, 0]}


class Counting(nn.BatchNorm2d):
    """A subclass, which may do more than its parent."""


def test_what_does_more_than_normalise_is_left_one_by_one():
    assert all_plain([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
    hooked = nn.BatchNorm2d(3)
    hooked.register_forward_hook(lambda module, inputs, output: output)
    others = [
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3, eps=1e-3),
        nn.BatchNorm2d(3, momentum=0.2),
        nn.BatchNorm2d(3).eval(),
        nn.SyncBatchNorm(3),
        Counting(3),
        hooked,
    ]
    for other in others:
        assert not all_plain([nn.BatchNorm2d(3), copy.deepcopy(other)]), other
