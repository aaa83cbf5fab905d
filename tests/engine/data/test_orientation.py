"""The orientation that a camera noted is ignored, by every loader and in evaluation, as torchvision's loader does.

Pillow alone says what is right here: `Image.open` gives the pixels as they are stored.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from dat_engine.data import Augmentation, ImageFiles, RandomResizedCrop, batches, open_loader
from tests.engine.data.pictures import needs_dali, photograph

ORIENTATION = 0x0112
HEIGHT, WIDTH = 30, 48
LOADERS = ["resident", "torchvision", pytest.param("dali", marks=needs_dali)]
FORMATS = {
    "jpeg": ("RGB", "jpg", {"quality": 95}),
    "grey jpeg": ("L", "jpg", {"quality": 95}),
    "cmyk jpeg": ("CMYK", "jpg", {"quality": 95}),
    "png": ("RGB", "png", {}),
    "grey png": ("L", "png", {}),
    "webp": ("RGB", "webp", {"lossless": True}),
}


@pytest.fixture(params=FORMATS)
def oriented(request, tmp_path):
    """A function (image_size, resize) -> ImageFiles: one picture eight times, each with an orientation of its own."""
    mode, suffix, options = FORMATS[request.param]

    def make(image_size, resize):
        paths = []
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            path = tmp_path / f"{orientation}.{suffix}"
            photograph(HEIGHT, WIDTH, seed=3).convert(mode).save(path, exif=exif, **options)
            with Image.open(path) as image:
                assert image.getexif()[ORIENTATION] == orientation and image.size == (WIDTH, HEIGHT)
            paths.append(str(path))
        return ImageFiles(
            paths=tuple(paths),
            targets=torch.zeros(8, dtype=torch.int64),
            class_names=("picture",),
            image_size=image_size,
            resize=resize,
        )

    return make


def stored(files):
    """The stored pixels of the files' picture."""
    with Image.open(files.paths[0]) as image:
        return image.convert("RGB")


def levels(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


def centre(picture, files):
    """`ImageFiles`'s un-augmented image, by Pillow: float32 [3, H, W] in levels of 255."""
    scaled = picture.resize((WIDTH * files.resize // HEIGHT, files.resize), Image.Resampling.BILINEAR)
    left, top = (scaled.width - files.image_size) // 2, (scaled.height - files.image_size) // 2
    return levels(scaled.crop((left, top, left + files.image_size, top + files.image_size)))


def epoch(loader, files, augmentation):
    """The one batch of all eight, in the order of the split."""
    opened = open_loader(
        loader, files, batch_size=8, augmentation=augmentation, workers=1, seed=0, device=torch.device("cpu")
    )
    (batch,) = opened.epoch(0)
    assert opened.damaged_files == ()
    order = batch.indices.argsort()
    return batch.images[order], batch.originals[order]


def assert_alike(images, expected):
    """All of `images` in [0, 1] are `expected` up to how scaling rounds (see test_dali_loader)."""
    gap = (images * 255 - expected).abs()
    assert gap.max() < 10.5 and gap.flatten(1).mean(dim=1).max() < 1


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("resize", [24, HEIGHT, 40], ids=["scaled down", "as it is", "scaled up"])
def test_a_padded_crop_shows_the_stored_pixels(oriented, loader, resize):
    files = oriented(image_size=20, resize=resize)
    images, originals = epoch(loader, files, Augmentation(padding=0, flip=False))
    assert_alike(originals, centre(stored(files), files))
    assert torch.equal(images, originals)


@pytest.mark.parametrize("loader", [pytest.param("dali", marks=needs_dali), "torchvision"])
def test_a_random_window_is_cut_out_of_the_stored_pixels(oriented, loader, monkeypatch):
    files = oriented(image_size=12, resize=HEIGHT)
    top, left, height, width = 3, 20, 18, 25  # fits the stored picture alone: 20 + 25 is more than its height
    drawn = torch.tensor([[top, left, height, width]], dtype=torch.int32)
    sizes = []
    monkeypatch.setattr(
        "dat_engine.data.loaders.dali_requests.draw_windows",
        lambda _, found, __: sizes.append(found) or drawn.repeat(8, 1),
    )
    monkeypatch.setattr(
        "torchvision.transforms.v2.RandomResizedCrop.make_params",
        lambda *_: {"top": top, "left": left, "height": height, "width": width},
    )
    images, originals = epoch(loader, files, RandomResizedCrop(flip=False))
    window = stored(files).crop((left, top, left + width, top + height))
    assert_alike(images, levels(window.resize((12, 12), Image.Resampling.BILINEAR)))
    assert_alike(originals, centre(stored(files), files))
    assert all(found.tolist() == [[HEIGHT, WIDTH]] * 8 for found in sizes)


def test_evaluation_shows_the_stored_pixels(oriented):
    files = oriented(image_size=20, resize=24)
    ((images, _),) = batches(files, 8, "cpu")
    assert_alike(images, centre(stored(files), files))
