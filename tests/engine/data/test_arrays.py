"""Choosing samples of a split, and the mean amplitude."""

import pytest
import torch

from dat_engine.data import ImageArrays, hold_out, take, unit_range


def _rows(arrays):
    """Every image as a tuple of its values: random images are distinct, so a row identifies its sample."""
    return [tuple(image.flatten().tolist()) for image in arrays.images]


def _uneven(small_arrays):
    """Classes of 12, 6, 4 and 2 samples."""
    arrays = small_arrays(24)
    targets = torch.tensor([0] * 12 + [1] * 6 + [2] * 4 + [3] * 2)
    return ImageArrays(images=arrays.images, targets=targets, class_names=arrays.class_names)


@pytest.mark.parametrize("n", [1, 4, 10, 24])
def test_take_is_seeded_ordered_and_of_the_size_asked_for(small_arrays, n):
    arrays = small_arrays(24)
    chosen = take(arrays, n, seed=1)
    assert len(chosen) == n
    assert chosen.class_names == arrays.class_names
    positions = [_rows(arrays).index(row) for row in _rows(chosen)]
    assert positions == sorted(set(positions))
    assert torch.equal(chosen.targets, arrays.targets[positions])
    assert torch.equal(take(arrays, n, seed=1).images, chosen.images)
    if n < 24:
        assert not torch.equal(take(arrays, n, seed=2).images, chosen.images)


@pytest.mark.parametrize(("n", "counts"), [(8, [2, 2, 2, 2]), (13, [4, 4, 3, 2]), (20, [8, 6, 4, 2])])
def test_take_balances_classes_as_far_as_they_reach(small_arrays, n, counts):
    found = torch.bincount(take(_uneven(small_arrays), n, seed=5).targets, minlength=4).tolist()
    if n == 13:  # 2 of every class and 5 more of the first three: which of them gives one less is random
        assert found[3] == 2 and sorted(found[:3]) == [3, 4, 4]
    else:
        assert found == counts


def test_take_of_fewer_is_part_of_take_of_more(small_arrays):
    arrays = small_arrays(24)
    assert set(_rows(take(arrays, 7, seed=0))) < set(_rows(take(arrays, 8, seed=0)))


def test_take_refuses_what_the_split_cannot_give(small_arrays):
    for n in (0, -3, 25):
        with pytest.raises(
            ValueError, match=f"cannot take {n} images from a split of 24; ask for a number from 1 to 24"
        ):
            take(small_arrays(24), n, seed=0)


def test_hold_out_parts_are_disjoint_and_complete(small_arrays):
    arrays = small_arrays(24)
    train, validation = hold_out(arrays, 8, seed=3)
    assert (len(train), len(validation)) == (16, 8)
    assert not set(_rows(train)) & set(_rows(validation))
    assert set(_rows(train)) | set(_rows(validation)) == set(_rows(arrays))
    assert torch.bincount(validation.targets).tolist() == [2, 2, 2, 2]
    assert torch.equal(hold_out(arrays, 8, seed=3)[1].images, validation.images)
    assert not torch.equal(hold_out(arrays, 8, seed=4)[1].images, validation.images)


def test_hold_out_leaves_no_part_empty(small_arrays):
    for count in (0, 24, 30):
        with pytest.raises(ValueError, match=f"cannot hold {count} images out of a split of 24; .* from 1 to 23"):
            hold_out(small_arrays(24), count, seed=0)


def test_unit_range_is_the_correctly_rounded_quotient():
    values = torch.arange(256, dtype=torch.uint8)
    expected = (torch.arange(256, dtype=torch.float64) / 255).to(torch.float32)
    assert torch.equal(unit_range(values), expected)


def test_image_arrays_refuse_what_does_not_fit():
    images, targets = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 1])
    with pytest.raises(TypeError, match=r"images are torch\.float32 and targets torch\.int64; give uint8 images"):
        ImageArrays(images=images.float(), targets=targets, class_names=("a", "b"))
    with pytest.raises(TypeError, match=r"targets torch\.int32; give uint8 images and int64 targets"):
        ImageArrays(images=images, targets=targets.int(), class_names=("a", "b"))
    with pytest.raises(ValueError, match=r"shape \(3, 1, 4, 4\) and targets \(2,\); give \[N, C, H, W\] and \[N\]"):
        ImageArrays(images=images, targets=targets[:2], class_names=("a", "b"))
    with pytest.raises(ValueError, match="with N of at least 1"):
        ImageArrays(images=images[:0], targets=targets[:0], class_names=("a", "b"))
    with pytest.raises(ValueError, match=r"targets run from 0 to 1, but there are 1 class names; .* in 0\.\.0"):
        ImageArrays(images=images, targets=targets, class_names=("a",))
