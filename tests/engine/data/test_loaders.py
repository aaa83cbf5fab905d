"""What all loaders promise of images in memory: order, resuming, sharding, originals, augmentation."""

import pytest
import torch

from dat_engine.data import Augmentation, DaliLoader, RandomResizedCrop, ResidentLoader, TorchvisionLoader
from tests.engine.data.comparisons import assert_same_batches, joined
from tests.engine.data.pictures import needs_dali

AUGMENTATION = Augmentation(padding=2, flip=True)
LOADERS = [ResidentLoader, TorchvisionLoader, pytest.param(DaliLoader, marks=needs_dali)]


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def make_loader(request):
    def make(arrays, **settings):
        defaults = {"batch_size": 4, "augmentation": AUGMENTATION, "seed": 11, "device": "cpu"}
        return request.param(arrays, **{**defaults, **settings})

    return make


def _crops_and_flips(image, padding):
    """Every image that zero padding, cropping to the same size and flipping can give."""
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image, [padding] * 4)
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + height, left : left + width]
            yield from (
                ((top - padding, left - padding, False), crop),
                ((top - padding, left - padding, True), crop.flip(2)),
            )


def test_attributes_and_batch_layout(make_loader, small_arrays):
    loader = make_loader(small_arrays(22))
    assert (loader.num_classes, loader.image_shape, loader.batch_size) == (4, (3, 8, 8), 4)
    assert loader.class_names == ("class0", "class1", "class2", "class3")
    assert loader.steps_per_epoch == 5
    batches = list(loader.epoch(0))
    assert len(batches) == 5
    for batch in batches:
        assert batch.images.shape == batch.originals.shape == (4, 3, 8, 8)
        assert batch.images.dtype == batch.originals.dtype == torch.float32
        assert batch.targets.shape == batch.indices.shape == (4,)
        assert batch.targets.dtype == batch.indices.dtype == torch.int64
        assert batch.images.min() >= 0 and batch.images.max() <= 1


def test_originals_and_targets_are_the_raw_data(make_loader, small_arrays):
    arrays = small_arrays(24)
    arrays.images.view(-1)[:256] = torch.arange(
        256, dtype=torch.uint8
    )  # every value: rounding differs from one to another
    exact = (arrays.images.double() / 255).float()
    for batch in make_loader(arrays).epoch(3):
        assert torch.equal(batch.originals, exact[batch.indices])
        assert torch.equal(batch.targets, arrays.targets[batch.indices])


def test_every_image_comes_once_per_epoch_in_another_order(make_loader, small_arrays):
    loader = make_loader(small_arrays(24))
    first, second = joined(loader.epoch(0), "indices"), joined(loader.epoch(1), "indices")
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(24))
    assert first.tolist() != second.tolist() and first.tolist() != list(range(24))


def test_an_epoch_is_a_pure_function_of_seed_and_epoch(make_loader, small_arrays):
    arrays = small_arrays(24)
    loader = make_loader(arrays)
    expected = list(loader.epoch(2))
    list(loader.epoch(0))
    torch.manual_seed(99)
    assert_same_batches(loader.epoch(2), expected)
    assert_same_batches(make_loader(arrays).epoch(2), expected)
    other = next(make_loader(arrays, seed=12).epoch(2))
    assert not torch.equal(other.indices, expected[0].indices)


def test_draws_differ_between_epochs(make_loader, small_arrays):
    arrays = small_arrays(24)
    arrays.images[:] = arrays.images[0].clone()  # equal images: a batch then shows its draws alone
    loader = make_loader(arrays, batch_size=24)
    assert not torch.equal(next(loader.epoch(0)).images, next(loader.epoch(1)).images)


def test_samples_of_a_batch_are_flipped_independently(make_loader, small_arrays):
    arrays = small_arrays(24)
    (batch,) = make_loader(arrays, batch_size=24, augmentation=Augmentation(padding=0, flip=True)).epoch(0)
    flipped = (batch.images == batch.originals.flip(3)).flatten(1).all(dim=1)
    assert 0 < flipped.sum() < 24
    assert torch.equal(batch.images[~flipped], batch.originals[~flipped])


def test_steps_of_an_epoch_have_their_own_draws(make_loader, small_arrays):
    arrays = small_arrays(24)
    arrays.images[:] = arrays.images[0].clone()
    for augmentation in (Augmentation(padding=2, flip=False), Augmentation(padding=0, flip=True)):
        first, second = make_loader(arrays, batch_size=12, augmentation=augmentation).epoch(0)
        assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize("start_step", [0, 1, 4, 6])
def test_resumed_epoch_is_the_rest_of_the_uninterrupted_one(make_loader, small_arrays, start_step):
    arrays = small_arrays(24)
    whole = list(make_loader(arrays).epoch(5))
    assert_same_batches(make_loader(arrays).epoch(5, start_step=start_step), whole[start_step:])


def test_global_random_state_is_left_alone(make_loader, small_arrays):
    before = torch.get_rng_state()
    list(make_loader(small_arrays(24)).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_share_no_sample_and_take_equal_steps(make_loader, small_arrays):
    arrays = small_arrays(26)
    loaders = [make_loader(arrays, batch_size=4, rank=rank, world_size=3) for rank in range(3)]
    assert [loader.steps_per_epoch for loader in loaders] == [2, 2, 2]
    seen = torch.cat([joined(loader.epoch(1), "indices") for loader in loaders])
    assert len(seen) == len(set(seen.tolist())) == 24


def test_the_samples_of_a_step_depend_on_the_total_batch_alone(make_loader, small_arrays):
    arrays = small_arrays(24)
    alone = make_loader(arrays, batch_size=6).epoch(1)
    ranks = [make_loader(arrays, batch_size=3, rank=rank, world_size=2).epoch(1) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert set(whole.indices.tolist()) == {index for part in parts for index in part.indices.tolist()}


def test_processes_augment_independently(make_loader, small_arrays):
    arrays = small_arrays(24)
    arrays.images[:] = arrays.images[0].clone()  # equal images: a batch then shows its draws alone
    first, second = (next(make_loader(arrays, batch_size=12, rank=rank, world_size=2).epoch(0)) for rank in range(2))
    assert not torch.equal(first.images, second.images)


def test_augmented_image_is_a_crop_or_flip_of_its_original(make_loader, small_arrays):
    seen = set()
    for batch in make_loader(small_arrays(24)).epoch(0):
        for image, original in zip(batch.images, batch.originals, strict=True):
            matches = [
                draw for draw, crop in _crops_and_flips(original, AUGMENTATION.padding) if torch.equal(crop, image)
            ]
            assert len(matches) == 1
            seen.update(matches)
    assert len({flip for *_, flip in seen}) == 2
    assert len({(dy, dx) for dy, dx, _ in seen}) > 10  # 24 draws out of 25 offsets


def test_augmentation_draws_are_uniform(make_loader, small_arrays):
    arrays = small_arrays(800, image_shape=(1, 3, 3))
    arrays.images[:] = torch.arange(1, 10, dtype=torch.uint8).view(1, 3, 3)
    loader = make_loader(arrays, batch_size=800, augmentation=Augmentation(padding=1, flip=True))
    (batch,) = loader.epoch(0)
    draws = [draw for draw, _ in _crops_and_flips(batch.originals[0], 1)]
    views = torch.stack([view for _, view in _crops_and_flips(batch.originals[0], 1)])
    matches = (batch.images[:, None] == views[None]).flatten(2).all(dim=2)
    assert (matches.sum(dim=1) == 1).all()
    counts = matches.sum(dim=0).double()
    expected = 800 / len(draws)
    assert ((counts - expected) ** 2 / expected).sum() < 40.8  # 99.9 % quantile with 17 degrees of freedom


def test_no_augmentation_leaves_the_originals(make_loader, small_arrays):
    for batch in make_loader(small_arrays(24), augmentation=Augmentation(padding=0, flip=False)).epoch(0):
        assert torch.equal(batch.images, batch.originals)


def test_more_than_the_data_set_holds_is_refused(make_loader, small_arrays):
    arrays = small_arrays(10)
    with pytest.raises(ValueError, match=r"batch of 11 on 1 process\(es\) needs 11 images, .* holds 10; .* at most 10"):
        make_loader(arrays, batch_size=11)
    with pytest.raises(ValueError, match=r"batch of 4 on 3 process\(es\) needs 12 images, .* holds 10; .* at most 3"):
        make_loader(arrays, batch_size=4, world_size=3)
    with pytest.raises(ValueError, match=r"batch of 1 on 11 process\(es\) .* use at most 10 processes"):
        make_loader(arrays, batch_size=1, world_size=11)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch size is 0; use at least 1"),
        ({"seed": -1}, "seed is -1; use 0 or a positive number"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2 processes does not exist"),
        ({"world_size": 0}, "rank 0 of 0 processes does not exist"),
    ],
)
def test_settings_out_of_range_are_refused(make_loader, small_arrays, settings, message):
    with pytest.raises(ValueError, match=message):
        make_loader(small_arrays(24), **settings)


def test_positions_out_of_range_are_refused_at_the_call(make_loader, small_arrays):
    loader = make_loader(small_arrays(24))
    for start_step in (-1, 7):
        with pytest.raises(
            ValueError, match=f"cannot start at step {start_step}: the epoch has 6 steps; .* from 0 to 6"
        ):
            loader.epoch(0, start_step=start_step)
    with pytest.raises(ValueError, match="epoch is -1; use 0 or a positive number"):
        loader.epoch(-1)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_resident_and_torchvision_give_the_same_samples(small_arrays, rank, world_size):
    arrays = small_arrays(26)
    resident, torchvision = (
        loader(arrays, batch_size=4, augmentation=AUGMENTATION, seed=5, device="cpu", rank=rank, world_size=world_size)
        for loader in (ResidentLoader, TorchvisionLoader)
    )
    for a, b in zip(resident.epoch(1), torchvision.epoch(1), strict=True):
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.originals, b.originals)
        assert torch.equal(a.targets, b.targets)


@pytest.mark.parametrize("loader", LOADERS[1:])
def test_images_in_memory_have_no_random_resized_crop(loader, small_arrays):
    with pytest.raises(ValueError, match=r"a random resized crop is cut out of image files.* use Augmentation\("):
        loader(small_arrays(24), batch_size=4, augmentation=RandomResizedCrop(), seed=0, device="cpu")


def test_images_in_memory_are_never_damaged(make_loader, small_arrays):
    loader = make_loader(small_arrays(24))
    list(loader.epoch(0))
    assert loader.damaged_files == ()


def test_resident_images_follow_the_drawn_offsets(small_arrays, monkeypatch):
    offsets = torch.tensor([[0, 0], [2, -1], [-2, 2], [1, 1]], dtype=torch.int32)
    flip = torch.tensor([False, True, False, True])
    monkeypatch.setattr("dat_engine.data.augmentations.epoch.draw_augmentation", lambda *_: (offsets, flip))
    (batch,) = ResidentLoader(small_arrays(4), batch_size=4, augmentation=AUGMENTATION, seed=0, device="cpu").epoch(0)
    for image, original, (dy, dx), flipped in zip(batch.images, batch.originals, offsets.tolist(), flip, strict=True):
        assert torch.equal(image, dict(_crops_and_flips(original, 2))[dy, dx, bool(flipped)])


def test_workers_change_nothing(small_arrays):
    settings = {"batch_size": 4, "augmentation": AUGMENTATION, "seed": 5, "device": "cpu"}
    arrays = small_arrays(24)
    assert_same_batches(
        TorchvisionLoader(arrays, workers=2, **settings).epoch(1, start_step=2),
        TorchvisionLoader(arrays, **settings).epoch(1, start_step=2),
    )
    with pytest.raises(ValueError, match=r"workers is -1; use 0 \(no worker process\) or a positive number"):
        TorchvisionLoader(arrays, workers=-1, **settings)
