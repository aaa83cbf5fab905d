"""The DALI loader against the torchvision and the resident one, and what it does when DALI fails.

Decoding is the same to the bit (both use libjpeg-turbo here). Scaling rounds differently: one level of 255 away from
the edge of the file, and up to ten at the edge, where DALI repeats the outermost pixels and torchvision shortens the
filter; on average less than 0.3 levels in the tests' small images.
"""

import gc
import os
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
    ResidentLoader,
    TorchvisionLoader,
    load,
    take,
)
from dat_engine.data.loaders.dali_requests import FileRequests
from tests.engine.data.comparisons import assert_same_batches, in_memory, joined, originals
from tests.engine.data.pictures import damage, needs_dali, photograph

PADDED = Augmentation(padding=2, flip=True)


@needs_dali
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_dali_gives_torchvisions_pixels_and_labels(jpegs, rank, world_size):
    files = jpegs(26, sizes=((40, 31), (16, 16), (24, 90), (61, 22)), image_size=13)
    settings = {"batch_size": 4, "augmentation": PADDED, "seed": 5, "device": "cpu"}
    settings |= {"rank": rank, "world_size": world_size}
    for a, b in zip(DaliLoader(files, **settings).epoch(1), TorchvisionLoader(files, **settings).epoch(1), strict=True):
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.targets, b.targets)
        gap = (a.originals - b.originals).abs() * 255
        assert gap.max() < 10.5 and gap.mean() < 0.3
        assert gap[:, :, 3:-3, 3:-3].max() < 1.5


@needs_dali
def test_dali_gives_the_batches_of_a_resident_loader(jpegs):
    files = jpegs(24, sizes=((16, 16),))
    settings = {"batch_size": 4, "augmentation": PADDED, "seed": 5, "device": "cpu"}
    assert_same_batches(DaliLoader(files, **settings).epoch(1), ResidentLoader(in_memory(files), **settings).epoch(1))


@needs_dali
@pytest.mark.parametrize(
    ("mode", "name"), [("L", "grey.jpg"), ("CMYK", "cmyk.jpg"), ("RGBA", "transparent.png"), ("P", "palette.png")]
)
def test_dali_makes_rgb_of_whatever_a_file_holds(jpegs, tmp_path, mode, name):
    files = jpegs(4, sizes=((16, 16),))
    exif = Image.Exif()
    exif[274] = 3  # upside down, which is not to be put right
    photograph(16, 16, seed=9).convert(mode).save(tmp_path / name, exif=exif)
    files = ImageFiles(
        paths=(*files.paths[:3], str(tmp_path / name)),
        targets=files.targets,
        class_names=files.class_names,
        image_size=16,
        resize=16,
    )
    (batch,) = DaliLoader(files, batch_size=4, augmentation=PADDED, seed=0, device="cpu").epoch(0)
    expected = originals(files)
    assert torch.equal(batch.originals, expected[batch.indices])


@needs_dali
def test_dali_windows_are_those_that_were_drawn(jpegs, monkeypatch):
    files = jpegs(4, sizes=((40, 30),), image_size=10)
    windows = torch.tensor([[0, 0, 40, 30], [5, 7, 20, 12], [30, 20, 10, 10], [1, 2, 3, 4]], dtype=torch.int32)
    monkeypatch.setattr("dat_engine.data.loaders.dali_requests.draw_windows", lambda *_: windows)
    augmentation = RandomResizedCrop(flip=False)
    (batch,) = DaliLoader(files, batch_size=4, augmentation=augmentation, seed=0, device="cpu").epoch(0)
    for image, index, (top, left, height, width) in zip(batch.images, batch.indices, windows.tolist(), strict=True):
        whole = Image.open(files.paths[index]).convert("RGB")
        part = whole.crop((left, top, left + width, top + height)).resize((10, 10), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.array(part)).permute(2, 0, 1)
        gap = (image * 255 - expected).abs()
        assert gap.max() < 10.5 and gap[:, 2:-2, 2:-2].max() < 1.5


@needs_dali
def test_one_pipeline_serves_all_epochs(jpegs, monkeypatch):
    built = []
    build = FileRequests.pipeline
    monkeypatch.setattr(FileRequests, "pipeline", lambda *args, **kwargs: built.append(1) or build(*args, **kwargs))
    loader = DaliLoader(jpegs(12), batch_size=4, augmentation=PADDED, seed=5, device="cpu")
    for epoch in range(3):
        assert len(list(loader.epoch(epoch, start_step=epoch))) == 3 - epoch
    assert len(built) == 1


@needs_dali
def test_a_file_that_dali_alone_cannot_decode_is_found(jpegs):
    files = jpegs(12, on_damaged="skip")
    photograph(16, 16, seed=1).save(files.paths[7], "GIF")
    loader = DaliLoader(files, batch_size=4, augmentation=PADDED, seed=5, device="cpu")
    with pytest.warns(UserWarning, match=rf"{files.paths[7]} is damaged \(NVIDIA DALI cannot decode it\)"):
        batches = list(loader.epoch(0))
    assert sorted(joined(batches, "indices").tolist()) == sorted([*range(7), 8, *range(8, 12)])


@needs_dali
@pytest.mark.parametrize(
    "content", [b"", bytes(range(256)) * 8, b"<html>not found</html>"], ids=["empty", "bytes", "text"]
)
def test_dali_is_never_given_what_is_no_image(jpegs, monkeypatch, content):
    files = jpegs(12, on_damaged="skip")
    Path(files.paths[7]).write_bytes(content)
    asked = []
    request = FileRequests.request
    monkeypatch.setattr(
        FileRequests, "request", lambda self, indices, *place: asked.extend(indices) or request(self, indices, *place)
    )
    loader = DaliLoader(files, batch_size=4, augmentation=PADDED, seed=5, device="cpu", threads=2)
    with pytest.warns(UserWarning, match=rf"{files.paths[7]} is damaged \(not an image in a known format\)"):
        batches = list(loader.epoch(0))
    assert len(batches) == 3 and loader.damaged_files == (files.paths[7],)
    assert 7 not in asked and asked.count(8) == 2
    with pytest.raises(DataError, match=rf"{files.paths[7]} is damaged"):
        list(
            DaliLoader(
                replace(files, on_damaged="fatal"), batch_size=4, augmentation=PADDED, seed=5, device="cpu", threads=2
            ).epoch(0)
        )


@needs_dali
def test_a_header_is_read_once(jpegs, monkeypatch):
    read = []
    monkeypatch.setattr(
        "dat_engine.data.loaders.dali_requests.size_in_file", lambda path: read.append(path) or (20, 16)
    )
    files = jpegs(12)
    loader = DaliLoader(files, batch_size=4, augmentation=PADDED, seed=5, device="cpu")
    for epoch in range(2):
        list(loader.epoch(epoch))
    assert sorted(read) == sorted(files.paths)


@needs_dali
def test_a_failure_that_no_file_explains_is_passed_on(jpegs, monkeypatch):
    loader = DaliLoader(jpegs(12), batch_size=4, augmentation=PADDED, seed=5, device="cpu")
    batches = loader.epoch(0)
    next(batches)

    def fail(*_):
        raise RuntimeError("the pipeline broke")

    monkeypatch.setattr("dat_engine.data.loaders.dali_pipeline.ViewsPipeline._run_once", fail)
    monkeypatch.setattr("dat_engine.data.loaders.dali_requests.FileRequests._decodes_alone", lambda *_: True)
    with pytest.raises(RuntimeError, match="the pipeline broke"):
        next(batches)


@needs_dali
def test_dali_leaves_nothing_to_the_garbage_collector(jpegs):
    def threads():
        return len(os.listdir("/proc/self/task"))

    files = jpegs(12, on_damaged="skip")
    list(DaliLoader(files, batch_size=4, augmentation=PADDED, seed=5, device="cpu").epoch(0))
    before = threads()
    gc.disable()
    try:
        loader = DaliLoader(files, batch_size=4, augmentation=PADDED, seed=5, device="cpu", threads=3)
        unfinished = loader.epoch(0)
        next(unfinished)
        assert threads() > before
        del unfinished
        assert threads() == before
        damage(files.paths[7])
        with pytest.warns(UserWarning, match="is damaged"):
            list(loader.epoch(0))
        del loader
        assert threads() == before
        with pytest.raises(DataError):
            list(
                DaliLoader(
                    replace(files, on_damaged="fatal"), batch_size=4, augmentation=PADDED, seed=5, device="cpu"
                ).epoch(0)
            )
        assert threads() == before
    finally:
        gc.enable()


@needs_dali
def test_dali_settings_out_of_range_are_refused(small_arrays):
    with pytest.raises(ValueError, match="threads is 0; use at least 1, or None"):
        DaliLoader(small_arrays(8), batch_size=4, augmentation=PADDED, seed=5, device="cpu", threads=0)


def test_dali_that_is_not_installed_is_asked_for(small_arrays, monkeypatch):
    monkeypatch.setattr("dat_engine.data.loaders.dali.dali_installed", lambda: False)
    with pytest.raises(ValueError, match=r"needs NVIDIA DALI; install it with: pip install 'dat-engine\[dali\]'"):
        DaliLoader(small_arrays(8), batch_size=4, augmentation=PADDED, seed=5, device="cpu")


@needs_dali
def test_real_tiny_imagenet(tinyimagenet_root):
    files = take(load("tinyimagenet", root=tinyimagenet_root, split="train", download=False), 400, seed=0)
    settings = {"batch_size": 100, "augmentation": PADDED, "seed": 5, "device": "cpu"}
    dali, torchvision = (loader(files, **settings).epoch(0) for loader in (DaliLoader, TorchvisionLoader))
    for a, b in zip(dali, torchvision, strict=True):
        assert torch.equal(a.indices, b.indices) and torch.equal(a.targets, b.targets)
        assert torch.equal(a.originals, b.originals)
