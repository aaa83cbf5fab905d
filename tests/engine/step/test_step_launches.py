"""The rules by which launches outside of compiled code are counted; what a whole step comes to is in `test_inductor_counts`."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.engine.step.step_launches import Watching, list_launches


@pytest.mark.parametrize(
    ("sizes", "lists", "launches"),
    [
        ([1] * 64, 2, 1),
        ([1] * 65, 2, 2),
        ([0] * 65 + [1] * 64, 2, 1),
        ([320 * 65536], 1, 1),
        ([320 * 65536 + 1, 1], 1, 2),
        ([], 3, 0),
    ],
)
def test_launches_of_an_operation_on_a_list(sizes, lists, launches):
    """64 tensors in two lists or 320 blocks of 65,536 elements fill one."""
    assert list_launches(sizes, lists) == launches


def test_views_and_allocations_launch_nothing_and_everything_else_does():
    mode = Watching(allow_non_fake_inputs=True)
    with mode:
        values = torch.empty(4, 4)
        with mode.watching():
            (values.t()[1:].reshape(-1, 1) + torch.empty_like(values)[0]).relu_()
            torch._foreach_mul_([values] * 65, [values] * 65)
            with mode.pausing():
                values.exp()
        values.exp()
    assert {name: count for name, count in mode.launches.items() if count} == {
        "aten.clone.default": 1,  # the transposed values in a row
        "aten.add.Tensor": 1,
        "aten.relu_.default": 1,
        "aten._foreach_mul_.List": 2,
    }
    assert isinstance(mode, FakeTensorMode)  # what torch.compile takes for its own
