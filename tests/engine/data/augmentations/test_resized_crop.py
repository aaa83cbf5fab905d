"""The windows of a random resized crop, against torchvision's."""

import pytest
import torch
from torchvision.transforms import v2

from dat_engine.data import RandomResizedCrop
from dat_engine.data.augmentations.crop import draw_windows


def _draw(size, n, seed=0, **settings):
    return draw_windows(RandomResizedCrop(**settings), torch.tensor([size] * n), torch.Generator().manual_seed(seed))


def _torchvision(size, n, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    image = torch.empty(3, *size, dtype=torch.uint8)
    transform = v2.RandomResizedCrop(8, scale=scale, ratio=ratio)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        draws = [transform.make_params([image]) for _ in range(n)]
    return torch.tensor([[draw[name] for name in ("top", "left", "height", "width")] for draw in draws])


def _largest_gap_of_distributions(one, other):
    """The Kolmogorov-Smirnov distance of two samples."""
    points = torch.cat([one, other]).sort().values
    below = [torch.searchsorted(sample.sort().values, points, right=True) / len(sample) for sample in (one, other)]
    return (below[0] - below[1]).abs().max().item()


@pytest.mark.parametrize("size", [(60, 80), (300, 50), (33, 33)])  # the middle one leads to the central window as well
def test_windows_are_distributed_as_torchvisions(size):
    n = 3000
    found, expected = _draw(size, n).double(), _torchvision(size, n).double()
    assert (found[:, :2] >= 0).all() and (found[:, 2:] >= 1).all()
    assert (found[:, 0] + found[:, 2] <= size[0]).all() and (found[:, 1] + found[:, 3] <= size[1]).all()
    bound = 1.95 * (2 / n) ** 0.5  # 99.9 % of the distances of two samples of one distribution
    for column in range(4):
        assert _largest_gap_of_distributions(found[:, column], expected[:, column]) < bound, column
    # How the four hang together: area, shape, and place within what is left.
    features = (
        lambda w: w[:, 2] * w[:, 3],
        lambda w: w[:, 3] / w[:, 2],
        lambda w: w[:, 0] + w[:, 2],
        lambda w: w[:, 0] / (size[0] - w[:, 2] + 1) - w[:, 1] / (size[1] - w[:, 3] + 1),
    )
    for feature in features:
        assert _largest_gap_of_distributions(feature(found), feature(expected)) < bound


def test_files_too_narrow_for_any_draw_give_the_central_window():
    assert _draw((100, 10), 1, scale=(0.9, 1.0)).tolist() == [[43, 0, 13, 10]]
    assert _draw((10, 100), 1, scale=(0.9, 1.0)).tolist() == [[0, 43, 10, 13]]
    assert _torchvision((100, 10), 1, scale=(0.9, 1.0)).tolist() == [[43, 0, 13, 10]]


def test_each_window_belongs_to_its_own_file():
    sizes = torch.tensor([[8, 8], [400, 300], [8, 8], [30, 500]])
    windows = draw_windows(RandomResizedCrop(scale=(0.5, 1.0)), sizes, torch.Generator().manual_seed(3))
    assert (windows[:, :2] + windows[:, 2:] <= sizes).all()
    assert (windows[1, 2:] > 100).all() and windows[3, 3] > 20


def test_draws_depend_on_the_generator_alone():
    torch.manual_seed(1)
    first = _draw((50, 60), 20)
    torch.manual_seed(2)
    assert torch.equal(_draw((50, 60), 20), first)
    assert not torch.equal(_draw((50, 60), 20, seed=1), first)
    assert len(set(map(tuple, first.tolist()))) > 15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"scale is \(0.0, 1.0\); give two shares of the area with 0 < low <= high <= 1"),
        ({"scale": (0.5, 1.1)}, "scale is"),
        ({"scale": (0.6, 0.5)}, "scale is"),
        ({"ratio": (0.0, 1.0)}, r"ratio is \(0.0, 1.0\); give two positive aspect ratios with low <= high"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(**settings)
