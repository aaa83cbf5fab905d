"""Which loader serves a split, and what is said when it is not the one that was asked for."""

import warnings
from pathlib import Path

import pytest
import torch

from dat_engine.data import (
    Augmentation,
    DaliLoader,
    RandomResizedCrop,
    ResidentLoader,
    TorchvisionLoader,
    free_bytes,
    open_loader,
    resident_bytes,
)
from tests.engine.data.pictures import damage, needs_dali

SETTINGS = {"batch_size": 4, "augmentation": Augmentation(padding=2, flip=True), "seed": 3, "device": "cpu"}


@pytest.fixture
def no_room(monkeypatch):
    """The device has 10 kB free: half of them is less than any of the splits here."""
    monkeypatch.setattr("dat_engine.data.loaders.build.free_bytes", lambda _: 10_000)


@pytest.fixture
def no_dali(monkeypatch):
    monkeypatch.setattr("dat_engine.data.loaders.build.dali_installed", lambda: False)


def _silently(kind, source, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_loader(kind, source, **{**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("auto", ResidentLoader),
        ("resident", ResidentLoader),
        ("torchvision", TorchvisionLoader),
        pytest.param("dali", DaliLoader, marks=needs_dali),
    ],
)
def test_the_loader_asked_for(small_arrays, jpegs, kind, expected):
    for source in (small_arrays(24), jpegs(24)):
        loader = _silently(kind, source, rank=1, world_size=2, workers=1)
        assert type(loader) is expected
        assert (loader.batch_size, loader.steps_per_epoch, loader.num_classes) == (4, 3, 4)
        first = next(loader.epoch(0))
        same = expected(source, rank=1, world_size=2, **SETTINGS) if expected is not ResidentLoader else loader
        assert torch.equal(first.indices, next(same.epoch(0)).indices)


def test_unknown_loaders_are_refused(small_arrays):
    with pytest.raises(ValueError, match="unknown loader 'pytorch'; use auto, resident, dali or torchvision"):
        open_loader("pytorch", small_arrays(24), **SETTINGS)


def test_resident_files_are_decoded_once(jpegs):
    files = jpegs(24, sizes=((16, 16),))
    resident, torchvision = (_silently(kind, files, workers=0) for kind in ("resident", "torchvision"))
    for a, b in zip(resident.epoch(0), torchvision.epoch(0), strict=True):
        assert torch.equal(a.originals, b.originals) and torch.equal(a.targets, b.targets)


def test_resident_files_that_are_damaged_are_counted(jpegs):
    files = jpegs(24, on_damaged="skip")
    damage(files.paths[5])
    with pytest.warns(UserWarning, match="is damaged"):
        loader = open_loader("resident", files, **SETTINGS)
    assert loader.damaged_files == (files.paths[5],)


@needs_dali
@pytest.mark.parametrize("kind", ["auto", "resident"])
def test_without_room_files_go_through_dali(jpegs, no_room, kind):
    with pytest.warns(UserWarning) as warned:
        loader = open_loader(kind, jpegs(24), **SETTINGS)
    assert type(loader) is DaliLoader
    assert [str(warning.message) for warning in warned] == [
        "24 images of 3x16x16 take 1.86e-05 GB, more than half of the 1e-05 GB that are free on cpu; "
        "the data set is not made resident but served by DALI"
    ]


def test_without_room_and_dali_files_go_through_torchvision(jpegs, no_room, no_dali):
    with pytest.warns(UserWarning, match=r"served by torchvision \(NVIDIA DALI is not installed\)"):
        loader = open_loader("auto", jpegs(24), **SETTINGS)
    assert type(loader) is TorchvisionLoader


def test_images_in_memory_need_no_more_of_it(small_arrays, no_room):
    assert type(_silently("auto", small_arrays(48))) is ResidentLoader


def test_a_gpu_needs_room_even_for_images_in_memory(small_arrays, jpegs, monkeypatch):
    from dat_engine.data.loaders.build import _obstacle

    arrays, files, padded = small_arrays(24), jpegs(24), SETTINGS["augmentation"]
    for scarce, expected in (("cuda", (True, True)), ("cpu", (False, True))):
        monkeypatch.setattr(
            "dat_engine.data.loaders.build.free_bytes",
            lambda place, scarce=scarce: 1e3 if place.type == scarce else 1e9,
        )
        found = [_obstacle(source, padded, torch.device("cuda", 0)) for source in (arrays, files)]
        assert tuple(obstacle is not None for obstacle in found) == expected


@needs_dali
def test_a_random_resized_crop_needs_the_files(jpegs):
    files = jpegs(24)
    settings = {**SETTINGS, "augmentation": RandomResizedCrop()}
    assert type(_silently("auto", files, augmentation=RandomResizedCrop())) is DaliLoader
    with pytest.warns(UserWarning, match="a random resized crop needs the image files; the data set is not made res"):
        assert type(open_loader("resident", files, **settings)) is DaliLoader


def test_what_a_resident_split_takes(small_arrays, jpegs):
    arrays = small_arrays(24)
    assert resident_bytes(arrays) == arrays.images.nbytes + arrays.targets.nbytes
    files = jpegs(10)
    assert resident_bytes(files) == 10 * (3 * 16 * 16 + 8)


def test_free_memory_is_what_the_system_can_give(tmp_path, monkeypatch):
    monkeypatch.setattr("dat_engine.data.loaders.build._CONTROL_GROUP", tmp_path)
    whole = free_bytes(torch.device("cpu"))
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < whole <= total


def test_a_container_leaves_less(tmp_path, monkeypatch):
    monkeypatch.setattr("dat_engine.data.loaders.build._CONTROL_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 2000000\ninactive_file 500000\n")
    assert free_bytes(torch.device("cpu")) == 2_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) > 5_000_000
