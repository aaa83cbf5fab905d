"""Batches for evaluation."""

import pytest
import torch

from dat_engine.data import batches


@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_every_sample_comes_once_in_order_unaugmented(small_arrays, batch_size):
    arrays = small_arrays(10)
    found = list(batches(arrays, batch_size, "cpu"))
    assert [len(images) for images, _ in found[:-1]] == [batch_size] * (len(found) - 1)
    assert torch.equal(torch.cat([images for images, _ in found]), (arrays.images.double() / 255).float())
    assert torch.equal(torch.cat([targets for _, targets in found]), arrays.targets)


def test_batch_size_below_one_is_refused_at_the_call(small_arrays):
    with pytest.raises(ValueError, match="batch size is 0; use at least 1"):
        batches(small_arrays(10), 0, "cpu")
