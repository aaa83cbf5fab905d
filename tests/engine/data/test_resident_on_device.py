"""The resident loader where it works, and batches prefetched on a side stream; at the size of CIFAR-10 on a GPU."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import islice

import pytest
import torch

from dat_engine.data import (
    AUGMENTATIONS,
    Augmentation,
    Batch,
    ImageArrays,
    ResidentLoader,
    named_augmentation,
    prefetched,
    unit_range,
)
from dat_engine.data.augmentations.interface import ImageAugmentation
from dat_kernels import augment
from tests.host_waits import waiting_is_an_error
from tests.kernels.inputs import make_images
from tests.kernels.steps import assert_same_bits

AUGMENTATION = Augmentation(padding=4, flip=True)


@pytest.fixture(scope="module")
def arrays(device):
    count, shape = (50_000, (3, 32, 32)) if device.type == "cuda" else (96, (3, 16, 16))
    generator = torch.Generator().manual_seed(7)
    return ImageArrays(
        images=torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8).to(device),
        targets=torch.randint(0, 10, (count,), generator=generator).to(device),
        class_names=tuple(map(str, range(10))),
    )


@pytest.fixture(scope="module")
def size(device):
    return 128 if device.type == "cuda" else 8


@pytest.fixture
def make_loader(arrays, size, device):
    def make(augmentation=AUGMENTATION):
        return ResidentLoader(arrays, batch_size=size, augmentation=augmentation, seed=1, device=device)

    return make


def named(name, image_shape):
    return named_augmentation(name, AUGMENTATION, data_set="cifar10", image_shape=image_shape)


def assert_same_batch(one, other):
    for field in fields(Batch):
        found, expected = getattr(one, field.name), getattr(other, field.name)
        assert (found is None) == (expected is None)  # a view that was not asked for
        if expected is not None:
            assert_same_bits(found, expected)


@pytest.mark.gate("data: an epoch holds every image once, and every batch its own pixels and labels")
def test_an_epoch_holds_every_image_once_and_every_batch_its_own_pixels_and_labels(make_loader, arrays, size):
    loader, seen, changed = make_loader(), [], 0
    images, targets = arrays.images.cpu(), arrays.targets.cpu()
    for step, batch in enumerate(loader.epoch(0)):
        seen.append(batch.indices)
        if step < 5:
            indices = batch.indices.cpu()
            assert_same_bits(batch.originals.cpu(), augment(images, indices, backend="reference"))
            assert torch.equal(batch.targets.cpu(), targets[indices])
            changed += int((batch.images != batch.originals).flatten(1).any(dim=1).sum())
    counts = torch.cat(seen).bincount(minlength=len(arrays))
    assert counts.max() == 1
    assert counts.sum() == loader.steps_per_epoch * size
    assert changed > 0.8 * 5 * size


@pytest.mark.gate("data: an epoch taken up in the middle goes on with the same bits")
def test_an_epoch_taken_up_in_the_middle_goes_on_with_the_same_bits(make_loader):
    loader = make_loader()
    middle = loader.steps_per_epoch // 2
    rest = islice(loader.epoch(3, start_step=middle), 5)
    for found, expected in zip(rest, islice(loader.epoch(3), middle, middle + 5), strict=True):
        assert_same_batch(found, expected)


@pytest.mark.gate("data: prefetched batches are the same, while the other stream works and reuses memory")
def test_prefetched_batches_are_the_same_while_the_other_stream_works_and_reuses_memory(
    make_loader, device, record_property
):
    steps, side = (60, 4096) if device.type == "cuda" else (6, 8)
    weight = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device)
    ahead = prefetched(make_loader().epoch(2), device)
    for expected in islice(make_loader().epoch(2), steps):
        batch = next(ahead)
        for _ in range(3):
            weight = weight @ weight
            weight /= weight.norm()
        copies = Batch(**{field.name: _copy(getattr(batch, field.name)) for field in fields(Batch)})
        del batch
        # whatever the allocator hands out again too early is overwritten here
        junk = [torch.full_like(expected.images, math.nan) for _ in range(4)]
        assert_same_batch(copies, expected)
        del junk
    record_property("note", f"{steps} batches")


def _copy(tensor):
    return None if tensor is None else tensor.clone()


@pytest.mark.gate("data: augmentations on the device are the CPU's on the same draws")
def test_augmentations_on_the_device_are_the_cpus_on_the_same_draws(arrays, size, device, record_property):
    """A source that lies halfway between two pixels, or a sum that is rounded another way, may be another level on a GPU."""
    shape, texts = arrays.image_shape, []
    images = unit_range(make_images("one_over_f", (4 * size, *shape)).mul(255).round().to(torch.uint8))
    for name in AUGMENTATIONS:
        then = named(name, shape).then
        if not isinstance(then, ImageAugmentation):
            continue
        draws = then.draw(len(images), shape, torch.Generator().manual_seed(0), torch.device("cpu"))
        expected = then.apply(images, draws)
        found = then.apply(images.to(device), {key: drawn.to(device) for key, drawn in draws.items()})
        different = (found.cpu() != expected).double().mean().item()
        texts.append(f"{name} {100 * different:.3f} %")
        assert different < (0.005 if device.type == "cuda" else 1e-9), texts[-1]
        assert (expected != images).any(), f"{name} changes nothing"
    assert texts
    record_property("note", "values that differ: " + ", ".join(texts))


@pytest.mark.gate("data: no augmentation waits for the device inside an epoch")
def test_no_augmentation_waits_for_the_device_inside_an_epoch(make_loader, arrays, device):
    for name in AUGMENTATIONS:
        loader = make_loader(named(name, arrays.image_shape))
        list(islice(loader.epoch(0), 2))
        with waiting_is_an_error(device):
            assert len(list(islice(loader.epoch(1), 5))) == 5
