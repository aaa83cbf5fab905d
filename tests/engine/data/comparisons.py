"""Batches compared with batches."""

import torch

from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.decoding import decode_all


def assert_same_batches(found, expected):
    """Two sequences of batches are equal to the bit."""
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        for field in ("images", "originals", "targets", "indices"):
            assert torch.equal(getattr(a, field), getattr(b, field)), field


def joined(batches, field):
    """One field of all batches, one after another."""
    return torch.cat([getattr(batch, field) for batch in batches])


def in_memory(files):
    """ImageFiles -> ImageArrays of their un-augmented images."""
    return decode_all(files, CorruptFiles(files))


def originals(files):
    """What a loader has to give for the files: float32 [N, 3, H, W]."""
    return (in_memory(files).images.double() / 255).float()
