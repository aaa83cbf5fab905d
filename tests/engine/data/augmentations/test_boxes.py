"""CutOut and random erasing: where their boxes lie, and what they leave."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dat_engine.data import Cutout, RandomErasing, unit_range
from dat_engine.errors import UserError
from tests.engine.data.augmentations.pictures_of_levels import images, near_share, same_distribution

CPU = torch.device("cpu")


def draw(augmentation, count, shape, seed=0):
    return augmentation.draw(count, shape, torch.Generator().manual_seed(seed), CPU)["box"]


@pytest.mark.parametrize(
    "augmentation", [Cutout(), RandomErasing(probability=0.7)], ids=lambda each: type(each).__name__
)
def test_boxes_are_erased_as_torchvision_erases(augmentation):
    pictures = images(20, (3, 12, 17)).clamp_min(1)
    boxes = draw(augmentation, 20, (3, 12, 17))
    found = augmentation.apply(unit_range(pictures), {"box": boxes})
    assert (boxes[:, 2] > boxes[:, 0]).any()
    for picture, (top, left, bottom, right), view in zip(pictures, boxes.tolist(), found, strict=True):
        expected = functional.erase(picture, top, left, bottom - top, right - left, torch.zeros(3, 1, 1))
        assert torch.equal(view, unit_range(expected))


def test_a_sample_by_itself_is_erased_too():
    (picture,) = images(1, (3, 12, 12), seed=4).clamp_min(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        erased = Cutout(share=0.5).apply_to_sample(picture)
    assert erased.dtype == torch.uint8 and torch.equal(erased[erased > 0], picture[erased > 0])
    assert 3 * 3 <= (erased == 0).all(dim=0).sum() <= 6 * 6


def test_cutouts_square_is_centred_on_any_pixel_and_cut_off_at_the_border():
    boxes = draw(Cutout(), 20_000, (3, 32, 32))
    assert boxes.dtype == torch.int32 and boxes.min() == 0 and boxes.max() == 32
    # the published code: from centre - 8 to centre + 8, centres being the pixels 0..31
    edges = torch.tensor([[max(c - 8, 0), min(c + 8, 32)] for c in range(32)])
    for axis in (0, 1):
        found = torch.stack([boxes[:, axis], boxes[:, axis + 2]], dim=1)
        counts = (found[:, None] == edges).all(dim=2).sum(dim=0).double()
        assert counts.sum() == 20_000
        assert ((counts - 625) ** 2 / 625).sum() < 61.1  # 99.9 % quantile of chi-square with 31 degrees of freedom
    tall = draw(Cutout(share=0.25), 200, (3, 40, 24))
    assert (tall[:, 2] - tall[:, 0]).max() == (tall[:, 3] - tall[:, 1]).max() == 6
    assert tall[:, 2].max() > 24


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 9, 24)], ids=str)
@pytest.mark.parametrize("scale", [(0.02, 0.33), (0.3, 0.9)])  # the second one often does not fit
def test_erased_boxes_are_distributed_as_torchvisions(shape, scale):
    n = 2500
    found = draw(RandomErasing(probability=1.0, scale=scale), n, shape)
    transform, expected = v2.RandomErasing(p=1.0, scale=scale), []
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for _ in range(n):
            params = transform.make_params([torch.empty(shape)])
            i, j, h, w = (0, 0, 0, 0) if params["v"] is None else (params[name] for name in "ijhw")
            expected.append([i, j, i + h, j + w])
    expected = torch.tensor(expected)
    for of in (
        lambda box: box[:, 2] - box[:, 0],
        lambda box: box[:, 3] - box[:, 1],
        lambda box: box[:, 0],
        lambda box: box[:, 3],
        lambda box: (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]),
    ):
        assert same_distribution(of(found), of(expected))
    assert found.min() >= 0 and (found[:, 2:] <= torch.tensor(shape[1:])).all()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_the_probability_is_that_of_erasing(probability):
    boxes = draw(RandomErasing(probability=probability), 5000, (3, 32, 32))
    assert near_share((boxes[:, 2] > boxes[:, 0]), probability)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cutout(share=0.0), r"CutOut's share is 0; use a part of the image's edge in \(0, 1\]"),
        (lambda: RandomErasing(probability=1.5), r"random erasing's probability is 1.5; use a number in \[0, 1\]"),
        (lambda: RandomErasing(scale=(0.5, 0.2)), r"random erasing's scale is \(0.5, 0.2\)"),
        (lambda: RandomErasing(ratio=(0.0, 1.0)), r"its ratio \(0.0, 1.0\); give shares of the area with"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
