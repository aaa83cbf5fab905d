"""What the loaders of image files promise: order, resuming, sharding, both views, damaged files."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dat_engine.data import (
    Augmentation,
    DaliLoader,
    DataError,
    ImageFiles,
    RandomResizedCrop,
    TorchvisionLoader,
    hold_out,
    take,
)
from tests.engine.data.comparisons import assert_same_batches, joined, originals
from tests.engine.data.pictures import damage, needs_dali

PADDED = Augmentation(padding=2, flip=True)
WINDOWED = RandomResizedCrop()
LOADERS = [TorchvisionLoader, pytest.param(DaliLoader, marks=needs_dali)]


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def make_loader(request):
    def make(files, **settings):
        defaults = {"batch_size": 4, "augmentation": PADDED, "seed": 11, "device": "cpu"}
        return request.param(files, **{**defaults, **settings})

    return make


@pytest.fixture(params=[PADDED, WINDOWED], ids=["padded crop", "random resized crop"])
def augmentation(request):
    return request.param


def test_batch_layout(make_loader, jpegs, augmentation):
    loader = make_loader(jpegs(22, sizes=((20, 16), (16, 40)), image_size=12), augmentation=augmentation)
    assert (loader.num_classes, loader.image_shape, loader.batch_size) == (4, (3, 12, 12), 4)
    assert (loader.steps_per_epoch, loader.damaged_files) == (5, ())
    batches = list(loader.epoch(0))
    assert len(batches) == 5
    for batch in batches:
        assert batch.images.shape == batch.originals.shape == (4, 3, 12, 12)
        assert batch.images.dtype == batch.originals.dtype == torch.float32
        assert batch.images.min() >= 0 and batch.images.max() <= 1
        assert batch.targets.dtype == batch.indices.dtype == torch.int64


def test_files_of_the_right_size_are_given_as_they_are(make_loader, jpegs):
    files = jpegs(24, sizes=((16, 16), (16, 17)))
    expected = originals(files)
    batches = list(make_loader(files).epoch(3))
    indices = joined(batches, "indices")
    assert torch.equal(joined(batches, "originals"), expected[indices])
    assert torch.equal(joined(batches, "targets"), files.targets[indices])
    assert indices.sort().values.tolist() == list(range(24))


@pytest.mark.parametrize("start_step", [0, 1, 4, 6])
def test_resumed_epoch_is_the_rest_of_the_uninterrupted_one(make_loader, jpegs, augmentation, start_step):
    files = jpegs(24)
    whole = list(make_loader(files, augmentation=augmentation).epoch(5))
    resumed = make_loader(files, augmentation=augmentation).epoch(5, start_step=start_step)
    assert_same_batches(resumed, whole[start_step:])


def test_an_epoch_is_a_pure_function_of_seed_and_epoch(make_loader, jpegs, augmentation):
    files = jpegs(24)
    loader = make_loader(files, augmentation=augmentation)
    expected = list(loader.epoch(2))
    next(loader.epoch(0))  # abandoned after one batch
    beside, again = loader.epoch(1), loader.epoch(2)
    next(beside)
    torch.manual_seed(99)
    assert_same_batches(again, expected)
    assert_same_batches(make_loader(files, augmentation=augmentation).epoch(2), expected)
    assert not torch.equal(next(loader.epoch(1)).images, expected[0].images)
    other = next(make_loader(files, augmentation=augmentation, seed=12).epoch(2))
    assert not torch.equal(other.indices, expected[0].indices)


def test_global_random_state_is_left_alone(make_loader, jpegs, augmentation):
    before = torch.get_rng_state()
    list(make_loader(jpegs(8), augmentation=augmentation).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def one_picture(jpegs):
    """A function n -> ImageFiles with the same file under every index: a batch then shows its draws alone."""

    def make(n):
        files = jpegs(1)
        return replace(files, paths=files.paths * n, targets=files.targets.repeat(n))

    return make


def test_steps_and_epochs_have_their_own_draws(make_loader, one_picture, augmentation):
    loader = make_loader(one_picture(24), batch_size=12, augmentation=augmentation)
    batches = [batch.images for epoch in (0, 1) for batch in loader.epoch(epoch)]
    for number, images in enumerate(batches):
        assert all(not torch.equal(images, other) for other in batches[:number])
    assert len({tuple(image.flatten().tolist()) for image in batches[0]}) > 6


def test_processes_share_no_sample_and_draw_independently(make_loader, one_picture, augmentation):
    epochs = [
        list(make_loader(one_picture(14), augmentation=augmentation, rank=rank, world_size=3).epoch(1))
        for rank in range(3)
    ]
    assert [len(batches) for batches in epochs] == [1, 1, 1]
    seen = joined([batch for batches in epochs for batch in batches], "indices").tolist()
    assert len(set(seen)) == len(seen) == 12
    assert not torch.equal(epochs[0][0].images, epochs[1][0].images)


def test_held_out_and_taken_files_are_served(make_loader, jpegs):
    train, validation = hold_out(jpegs(24), 8, seed=0)
    chosen = take(train, 8, seed=0)
    assert not set(train.paths) & set(validation.paths) and set(chosen.paths) < set(train.paths)
    assert torch.bincount(validation.targets).tolist() == torch.bincount(chosen.targets).tolist() == [2, 2, 2, 2]
    batches = list(make_loader(chosen).epoch(0))
    expected = originals(chosen)[joined(batches, "indices")]
    assert (joined(batches, "originals") - expected).abs().mean() < 1 / 255


def test_windows_lie_within_the_file_and_half_are_flipped(make_loader, tmp_path):
    # Red grows to the right and green downwards, so a picture tells which part of the file it is.
    ramp = np.zeros((240, 240, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(240), np.arange(240)[:, None]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    n = 600
    files = ImageFiles(
        paths=(str(tmp_path / "ramp.png"),) * n,
        targets=torch.zeros(n, dtype=torch.int64),
        class_names=("ramp",),
        image_size=8,
        resize=8,
    )
    (batch,) = make_loader(files, batch_size=n, augmentation=WINDOWED).epoch(0)
    corners = batch.images[:, :2, [0, 0, -1, -1], [0, -1, 0, -1]] * 255
    flipped = corners[:, 0, 0] > corners[:, 0, 1]
    assert abs(flipped.double().mean() - 0.5) < 3.3 * 0.5 / n**0.5  # 99.9 % of binomial samples
    # Between the centres of the outermost of 8 pixels lie 7/8 of a window.
    width = (corners[:, 0, 1] - corners[:, 0, 0]).abs() * 8 / 7
    height = (corners[:, 1, 2] - corners[:, 1, 0]) * 8 / 7
    share, ratio = width * height / 240**2, width / height
    assert 0.06 < share.min() < 0.12 and 0.9 < share.max() < 1.05
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.45
    centre = (corners[:, 0, 0] + corners[:, 0, 1]) / 2
    assert centre.min() < 60 and centre.max() > 180 and abs(centre.mean() - 119.5) < 6
    assert torch.equal(batch.originals, batch.originals[:1].expand_as(batch.originals))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_skipped_file_is_replaced_and_the_run_resumes_exactly(make_loader, jpegs, augmentation, rank):
    files = jpegs(24, on_damaged="skip")
    settings = {"augmentation": augmentation, "batch_size": 3, "rank": rank, "world_size": 2}
    sound = [batch.indices for batch in make_loader(files, **settings).epoch(0)]
    damage(files.paths[3])
    damage(files.paths[4])
    Path(files.paths[10]).write_bytes(b"")
    stand_ins = {3: 5, 4: 5, 10: 11}
    loader = make_loader(files, **settings)
    with pytest.warns(UserWarning, match="is damaged"):
        whole = list(loader.epoch(0))
    for batch, expected in zip(whole, sound, strict=True):
        assert batch.indices.tolist() == [stand_ins.get(index, index) for index in expected.tolist()]
        assert torch.equal(batch.targets, files.targets[batch.indices])
        assert batch.images.shape == (3, 3, 16, 16)
    met = {index for indices in sound for index in indices.tolist()} & {3, 4, 10}
    assert loader.damaged_files == tuple(files.paths[index] for index in sorted(met))
    assert_same_batches(loader.epoch(0), whole)  # now that they are known
    for start_step in (1, 3):
        fresh = make_loader(files, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_same_batches(fresh.epoch(0, start_step=start_step), whole[start_step:])


def test_a_damaged_file_is_fatal_by_choice(make_loader, jpegs, augmentation):
    files = jpegs(12)
    damage(files.paths[7])
    with pytest.raises(DataError) as caught:
        list(make_loader(files, augmentation=augmentation).epoch(0))
    message = str(caught.value)
    assert message.startswith(f"image file {files.paths[7]} is damaged (") and "\n" not in message
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_file_that_is_gone_is_never_skipped(make_loader, jpegs, augmentation):
    files = jpegs(12, on_damaged="skip")
    Path(files.paths[7]).unlink()
    with pytest.raises(DataError) as caught:
        list(make_loader(files, augmentation=augmentation).epoch(0))
    assert str(caught.value).startswith(f"image file {files.paths[7]} cannot be read (No such file or directory)")


def test_torchvision_workers_change_nothing(jpegs, augmentation):
    files = jpegs(24, on_damaged="skip")
    damage(files.paths[5])
    settings = {"batch_size": 4, "augmentation": augmentation, "seed": 5, "device": "cpu"}
    with pytest.warns(UserWarning, match="is damaged"):
        alone = list(TorchvisionLoader(files, **settings).epoch(1))
    loader = TorchvisionLoader(files, workers=2, **settings)
    with pytest.warns(UserWarning, match="is damaged"):
        assert_same_batches(loader.epoch(1), alone)
    assert loader.damaged_files == (files.paths[5],)


@pytest.mark.parametrize(
    ("spoil", "problem"), [(damage, "is damaged ("), (os.unlink, "cannot be read (No such file or directory)")]
)
def test_an_error_in_a_torchvision_worker_is_one_sentence(jpegs, spoil, problem):
    files = jpegs(12)
    spoil(files.paths[7])
    loader = TorchvisionLoader(files, workers=1, batch_size=4, augmentation=PADDED, seed=5, device="cpu")
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    message = str(caught.value)
    assert message.startswith(f"image file {files.paths[7]} {problem}") and "\n" not in message
