"""DALI's loader where it works: the resident loader's batches, and on a GPU pictures decoded by nvJPEG."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from dat_engine.data import Augmentation, DaliLoader, ImageArrays, ResidentLoader
from tests.engine.data.comparisons import assert_same_batches, originals
from tests.engine.data.pictures import needs_dali

AUGMENTATION = Augmentation(padding=4, flip=True)
DECODED_DIFFERENCE = 2.0
"""Mean difference, in 8-bit steps, between two JPEG decoders with different upsampling of colours."""

pytestmark = needs_dali


@pytest.mark.gate("dali: the loader gives the resident loader's batches from images in memory")
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_gives_the_resident_loaders_batches_from_images_in_memory(rank, world_size, small_arrays, device):
    count, size = (12_800, 128) if device.type == "cuda" else (26, 4)
    arrays = small_arrays(count, image_shape=(3, 32, 32))
    settings = {"batch_size": size, "augmentation": AUGMENTATION, "seed": 5, "device": device}
    settings |= {"rank": rank, "world_size": world_size}
    there = ImageArrays(
        images=arrays.images.to(device), targets=arrays.targets.to(device), class_names=arrays.class_names
    )
    resident = list(islice(ResidentLoader(there, **settings).epoch(1), 51))
    batches = list(islice(DaliLoader(arrays, **settings).epoch(1), 51))
    assert_same_batches(batches, resident)
    assert all(batch.images.device == device for batch in batches)


@pytest.mark.gate("dali: the loader decodes JPEG files")
def test_decodes_jpeg_files(jpegs, device, record_property):
    pytest.importorskip("PIL")
    pytest.importorskip("torchvision")
    size = 64 if device.type == "cuda" else 4
    files = jpegs(2 * size, sizes=((64, 64),), image_size=64, resize=64)
    expected, worst = originals(files), 0.0
    loader = DaliLoader(files, batch_size=size, augmentation=AUGMENTATION, seed=0, device=device)
    for batch in loader.epoch(0):
        assert torch.equal(batch.targets.cpu(), files.targets[batch.indices.cpu()])
        for image, index in zip(batch.originals.cpu(), batch.indices.tolist(), strict=True):
            worst = max(worst, 255 * float((image - expected[index]).abs().mean()))
    record_property("note", f"mean difference at most {worst:.2f} of 255")
    assert worst < DECODED_DIFFERENCE
