"""The draws of crop and flip."""

import pytest
import torch

from dat_engine.data import Augmentation, draw_augmentation

CPU = torch.device("cpu")


def _draw(augmentation, n, seed=0):
    return draw_augmentation(augmentation, n, torch.Generator().manual_seed(seed), CPU)


def _chi_square(counts):
    expected = counts.sum() / counts.numel()
    return ((counts - expected) ** 2 / expected).sum().item()


def test_offsets_are_uniform_over_the_whole_square():
    crop_offsets, _ = _draw(Augmentation(padding=4, flip=True), 16_200)
    assert crop_offsets.dtype == torch.int32 and crop_offsets.shape == (16_200, 2)
    assert crop_offsets.min() == -4 and crop_offsets.max() == 4
    cells = (crop_offsets[:, 0] + 4) * 9 + crop_offsets[:, 1] + 4
    counts = torch.bincount(cells, minlength=81)
    assert (counts > 0).all()
    assert _chi_square(counts.double()) < 124.8  # 99.9 % quantile of chi-square with 80 degrees of freedom


def test_half_of_the_images_are_flipped_whatever_their_offset():
    crop_offsets, flip = _draw(Augmentation(padding=4, flip=True), 16_200)
    assert flip.dtype == torch.bool and flip.shape == (16_200,)
    for chosen in (flip, flip[crop_offsets[:, 0] > 0], flip[crop_offsets[:, 1] < 0]):
        spread = 3.3 * 0.5 / len(chosen) ** 0.5  # 99.9 % of binomial samples
        assert abs(chosen.double().mean().item() - 0.5) < spread


def test_nothing_is_drawn_where_nothing_is_asked_for():
    crop_offsets, flip = _draw(Augmentation(padding=0, flip=False), 50)
    assert not crop_offsets.any() and not flip.any()


def test_draws_depend_on_the_generator_alone():
    augmentation = Augmentation(padding=3, flip=True)
    torch.manual_seed(1)
    first = _draw(augmentation, 20)
    torch.manual_seed(2)
    again, other = _draw(augmentation, 20), _draw(augmentation, 20, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match=r"padding is -1; use 0 \(no crop\) or a positive number of pixels"):
        Augmentation(padding=-1, flip=True)
