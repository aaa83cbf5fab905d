"""Damaged files: found, counted, named, replaced by the same sample whoever finds them, or fatal."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dat_engine.data import DataError, batches, unit_range
from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.decoding import centre_view, decode, decode_all, examine
from tests.engine.data.pictures import damage


def _originals(files):
    return torch.stack([centre_view(decode(path), files) for path in files.paths])


def test_a_damaged_file_is_reported_once_by_path(jpegs):
    files = jpegs(5, on_damaged="skip")
    damage(files.paths[2])
    damaged = CorruptFiles(files)
    assert not examine(1, damaged) and damaged.paths == ()
    with pytest.warns(UserWarning, match=rf"image file {files.paths[2]} is damaged \(.*runcated.*1 so far") as warned:
        assert examine(2, damaged) and examine(2, damaged)
    assert len(warned) == 1
    assert damaged.paths == (files.paths[2],)


def test_the_next_sample_that_is_not_damaged_stands_in(jpegs):
    damaged = CorruptFiles(jpegs(5, on_damaged="skip"))
    with pytest.warns(UserWarning):
        for index in (4, 2, 3):  # in whatever order they are found
            damaged.record(index, "broken")
    assert [damaged.stand_in(index) for index in range(5)] == [0, 1, 0, 0, 0]


def test_a_damaged_file_is_fatal_by_choice(jpegs):
    files = jpegs(5)
    damage(files.paths[2])
    with pytest.raises(DataError) as caught:
        examine(2, CorruptFiles(files))
    message = str(caught.value)
    assert message.startswith(f"image file {files.paths[2]} is damaged (")
    assert message.endswith("replace it, delete it, or choose to skip damaged files")


def test_a_data_set_of_damaged_files_is_no_data_set(jpegs):
    damaged = CorruptFiles(jpegs(3, on_damaged="skip"))
    with pytest.warns(UserWarning):
        damaged.record(0, "broken")
        damaged.record(2, "broken")
    with pytest.raises(DataError, match=r"all 3 image files are damaged \(.*001\.jpg: broken\); check the data set"):
        damaged.record(1, "broken")


def test_a_hundred_damaged_files_in_a_row_are_a_broken_disk(jpegs):
    files = jpegs(1)
    many = replace(files, paths=files.paths * 300, targets=files.targets.repeat(300), on_damaged="skip")
    damaged = CorruptFiles(many)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in (*range(0, 99), *range(100, 199)):
            damaged.record(index, "broken")
        with pytest.raises(DataError, match="100 image files in a row are damaged"):
            damaged.record(99, "broken")


def test_evaluation_leaves_damaged_files_out(jpegs):
    files = jpegs(10, on_damaged="skip")
    expected = unit_range(_originals(files))
    for index in (0, 1, 4):
        damage(files.paths[index])
    with pytest.warns(UserWarning, match="is damaged"):
        found = list(batches(files, 2, "cpu"))
    assert [len(images) for images, _ in found] == [2, 1, 2, 2]  # the first batch has lost both
    kept = [2, 3, 5, 6, 7, 8, 9]
    assert torch.equal(torch.cat([images for images, _ in found]), expected[kept])
    assert torch.equal(torch.cat([targets for _, targets in found]), files.targets[kept])


def test_evaluation_stops_at_a_damaged_file_by_choice(jpegs):
    files = jpegs(10)
    damage(files.paths[4])
    with pytest.raises(DataError, match=f"image file {files.paths[4]} is damaged"):
        list(batches(files, 4, "cpu"))


def test_evaluation_names_a_file_that_is_gone(jpegs):
    files = jpegs(10, on_damaged="skip")
    Path(files.paths[4]).unlink()
    with pytest.raises(DataError, match=rf"{files.paths[4]} cannot be read \(No such file or directory\)"):
        list(batches(files, 4, "cpu"))


@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_evaluation_takes_every_file_once_in_order(jpegs, batch_size):
    files = jpegs(10)
    found = list(batches(files, batch_size, "cpu"))
    assert [len(images) for images, _ in found[:-1]] == [batch_size] * (len(found) - 1)
    assert torch.equal(torch.cat([images for images, _ in found]), unit_range(_originals(files)))
    assert torch.equal(torch.cat([targets for _, targets in found]), files.targets)


def test_all_files_decoded_hold_the_stand_ins(jpegs):
    files = jpegs(6, on_damaged="skip")
    expected = _originals(files)
    damage(files.paths[1])
    damage(files.paths[2])
    damaged = CorruptFiles(files)
    with pytest.warns(UserWarning):
        arrays = decode_all(files, damaged)
    assert torch.equal(arrays.images, expected[[0, 3, 3, 3, 4, 5]])
    assert arrays.targets.tolist() == files.targets[[0, 3, 3, 3, 4, 5]].tolist()
    assert damaged.paths == files.paths[1:3]
