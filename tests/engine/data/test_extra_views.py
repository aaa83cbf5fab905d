"""Several augmented views of every image, from every loader: the first is what it was, the others have their own draws."""

import pytest
import torch

from dat_engine.data import Augmentation, ImageArrays, RandomResizedCrop, open_loader
from tests.engine.data.pictures import needs_dali

LOADERS = [
    "resident",
    pytest.param("dali", marks=needs_dali),
    "torchvision",
]


def arrays(count=24):
    generator = torch.Generator().manual_seed(0)
    return ImageArrays(
        images=torch.randint(0, 256, (count, 3, 12, 12), generator=generator, dtype=torch.uint8),
        targets=torch.arange(count) % 3,
        class_names=("a", "b", "c"),
    )


def loader(kind, source, augmentation, extra_views):
    return open_loader(
        kind, source, batch_size=8, augmentation=augmentation, seed=4, device="cpu", workers=1, extra_views=extra_views
    )


def check(kind, source, augmentation):
    alone = list(loader(kind, source, augmentation, 0).epoch(1))
    several = list(loader(kind, source, augmentation, 2).epoch(1))
    assert all(batch.extra_views is None for batch in alone)
    for one, more in zip(alone, several, strict=True):
        assert torch.equal(one.images, more.images)
        assert torch.equal(one.originals, more.originals)
        assert more.extra_views.shape == (2, *one.images.shape)
        first, second = more.extra_views
        assert not torch.equal(first, more.images) and not torch.equal(first, second)
    rest = list(loader(kind, source, augmentation, 2).epoch(1, start_step=2))
    assert torch.equal(rest[0].extra_views, several[2].extra_views)
    return several


@pytest.mark.parametrize("kind", LOADERS)
def test_every_view_of_images_in_memory_is_a_crop_of_the_original(kind):
    for batch in check(kind, arrays(), Augmentation(padding=2, flip=True)):
        padded = torch.nn.functional.pad(batch.originals, (2, 2, 2, 2))
        crops = [padded[:, :, top : top + 12, left : left + 12] for top in range(5) for left in range(5)]
        allowed = torch.stack([*crops, *(crop.flip(3) for crop in crops)])
        for view in batch.extra_views:
            assert (allowed == view).flatten(2).all(dim=2).any(dim=0).all()


@pytest.mark.parametrize("kind", LOADERS[1:])
def test_windows_of_files_are_drawn_for_every_view(kind, jpegs):
    check(kind, jpegs(sizes=((20, 16), (18, 30))), RandomResizedCrop())


@needs_dali
def test_in_memory_loaders_agree_on_every_view():
    resident, dali = (
        list(loader(kind, arrays(), Augmentation(padding=2, flip=True), 2).epoch(0)) for kind in ("resident", "dali")
    )
    for one, other in zip(resident, dali, strict=True):
        assert torch.equal(one.extra_views, other.extra_views)


def test_a_negative_number_of_views_is_refused():
    with pytest.raises(ValueError, match="extra_views is -1; use 0 or a positive number"):
        loader("resident", arrays(), Augmentation(padding=0, flip=False), -1)
