"""CutMix: pixels, labels by area, draws; against torchvision's on the same draws."""

import pytest
import torch
from torchvision.transforms import v2

from dat_engine.data import Batch, CutMix
from dat_engine.errors import UserError
from tests.engine.data.augmentations.pictures_of_levels import near_share, same_distribution

CPU = torch.device("cpu")


def batch(size=8, classes=5, extra_views=2, shape=(3, 8, 10)):
    """Every image, original and view is one colour, which says whose it is."""
    number = torch.arange(1, size + 1) / 32
    images = number.view(-1, 1, 1, 1).expand(size, *shape).contiguous()
    return Batch(
        images=images,
        originals=images + 0.25,
        targets=torch.arange(size) % classes,
        indices=torch.arange(size),
        extra_views=torch.stack([images + 0.5] * extra_views) if extra_views else None,
    )


def draw(steps, size, shape=(3, 8, 10), seed=0, **settings):
    return CutMix(**settings).draw(steps, size, shape, torch.Generator().manual_seed(seed), CPU)


def one_step(size=8, seed=0):
    return {name: drawn[0] for name, drawn in draw(1, size, seed=seed).items()}


def test_pixels_and_labels_are_torchvisions_on_the_same_draws(monkeypatch):
    given, classes = batch(), 5
    for seed in range(6):
        transform = v2.CutMix(num_classes=classes)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            params = transform.make_params([given.images])
        monkeypatch.setattr(transform, "make_params", lambda _, params=params: params)
        images, targets = transform(given.images, given.targets)
        left, top, right, bottom = params["box"]
        draws = {
            "partner": torch.arange(8).roll(1),
            "box": torch.tensor([[top, left, bottom, right]], dtype=torch.int32).expand(8, 4),
        }
        found = CutMix().apply(given, draws, classes)
        assert torch.equal(found.images, images)
        torch.testing.assert_close(found.targets, targets, rtol=0, atol=1e-7)


def test_labels_are_the_shares_of_the_pixels_in_every_view():
    given = batch()
    for seed in range(5):
        draws = one_step(seed=seed)
        mixed = CutMix().apply(given, draws, 5)
        assert mixed.targets.dtype == torch.float32 and mixed.targets.shape == (8, 5)
        for view, offset in ((mixed.images, 0.0), (mixed.originals, 0.25), *((v, 0.5) for v in mixed.extra_views)):
            owner = ((view[:, 0] - offset) * 32).round().long() - 1  # whose pixel it is
            onehot = torch.nn.functional.one_hot(given.targets[owner], 5).float()
            torch.testing.assert_close(onehot.mean(dim=(1, 2)), mixed.targets, rtol=0, atol=1e-6)
        assert torch.equal(mixed.indices, given.indices)
    assert CutMix().apply(batch(extra_views=0), draws, 5).extra_views is None


def test_all_views_are_mixed_by_the_same_boxes():
    mixed = CutMix().apply(batch(), one_step(seed=2), 5)
    torch.testing.assert_close(mixed.originals - 0.25, mixed.images)
    torch.testing.assert_close(mixed.extra_views[1] - 0.5, mixed.images)


def test_boxes_are_distributed_as_torchvisions():
    n, shape = 2500, (3, 16, 24)
    found = draw(n, 2, shape)["box"][:, 0]
    transform = v2.CutMix(num_classes=2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        boxes = [transform.make_params([torch.empty(1, *shape)])["box"] for _ in range(n)]
    expected = torch.tensor([[top, left, bottom, right] for left, top, right, bottom in boxes])
    for of in (
        *(lambda box, edge=edge: box[:, edge] for edge in range(4)),
        lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]),
    ):
        assert same_distribution(of(found), of(expected))


def test_every_step_has_partners_and_every_image_a_box_of_its_own():
    draws = draw(200, 6)
    assert torch.equal(draws["partner"].sort(dim=1).values, torch.arange(6).expand(200, 6))
    pairs = torch.bincount((draws["partner"] + 6 * torch.arange(6)).flatten(), minlength=36).double()
    assert ((pairs - 200 / 6) ** 2 / (200 / 6)).sum() < 67  # 99.9 % quantile of chi-square with 36 degrees of freedom
    assert len(set(map(tuple, draws["box"][0].tolist()))) > 3


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_the_probability_is_that_of_being_mixed(probability):
    boxes = draw(1000, 4, (3, 64, 64), probability=probability)["box"].flatten(0, 1)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    empty_of_mixed = (2 / 64) ** 2  # a box narrower than two pixels is none
    assert near_share(areas > 0, probability * (1 - empty_of_mixed))


def test_one_image_has_no_partner():
    CutMix().check((3, 8, 8), 2)
    with pytest.raises(
        UserError, match="CutMix mixes the images of a batch with each other; use a batch of at least 2, not 1"
    ):
        CutMix().check((3, 8, 8), 1)
    with pytest.raises(UserError, match=r"CutMix's probability is -1; use a number in \[0, 1\]"):
        CutMix(probability=-1)
