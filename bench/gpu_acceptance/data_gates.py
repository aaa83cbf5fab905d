"""The resident loader on the device, and batches prefetched on a side stream."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.kernel_backend import same_bits
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat_engine.data import Augmentation, Batch, ImageArrays, ResidentLoader, prefetched
from dat_kernels import augment

AUGMENTATION = Augmentation(padding=4, flip=True)


def run(setting: Setting, record: Recorder) -> None:
    arrays = training_images(setting)
    size = setting.pick(128, 8)
    with record.gate("data: an epoch holds every image once, and every batch its own pixels and labels") as notes:
        notes.text = check_epoch(arrays, size, setting)
    with record.gate("data: an epoch taken up in the middle goes on with the same bits"):
        loader = _loader(arrays, size, setting)
        middle = loader.steps_per_epoch // 2
        rest = list(loader.epoch(3, start_step=middle))[:5]
        for index, batch in enumerate(loader.epoch(3)):
            if middle <= index < middle + len(rest):
                require(_same(batch, rest[index - middle]), f"step {index} differs")
    with record.gate("data: prefetched batches are the same, while the other stream works and reuses memory") as notes:
        notes.text = check_prefetching(arrays, size, setting)


def _loader(arrays: ImageArrays, batch_size: int, setting: Setting) -> ResidentLoader:
    return ResidentLoader(arrays, batch_size=batch_size, augmentation=AUGMENTATION, seed=1, device=setting.device)


def check_epoch(arrays: ImageArrays, batch_size: int, setting: Setting) -> str:
    loader = _loader(arrays, batch_size, setting)
    seen, changed = [], 0
    images, targets = arrays.images.cpu(), arrays.targets.cpu()
    for step, batch in enumerate(loader.epoch(0)):
        seen.append(batch.indices)
        if step < 5:
            indices = batch.indices.cpu()
            originals = augment(images, indices, backend="reference")
            require(same_bits(batch.originals.cpu(), originals), f"the originals of step {step} are other images")
            require(torch.equal(batch.targets.cpu(), targets[indices]), f"the labels of step {step} are others'")
            changed += int((batch.images != batch.originals).flatten(1).any(dim=1).sum())
    counts = torch.cat(seen).bincount(minlength=len(arrays))
    require(int(counts.max()) == 1, "an image came twice in an epoch")
    require(int(counts.sum()) == loader.steps_per_epoch * batch_size, "the epoch is not full")
    require(changed > 0.8 * 5 * batch_size or setting.rehearsal, f"only {changed} of {5 * batch_size} were augmented")
    return f"{int(counts.sum())} images"


def check_prefetching(arrays: ImageArrays, batch_size: int, setting: Setting) -> str:
    plain = _loader(arrays, batch_size, setting).epoch(2)
    steps = setting.pick(60, 3)
    weight = torch.randn(setting.pick(4096, 8), setting.pick(4096, 8), device=setting.device)
    compared = 0
    for batch, expected in zip(
        prefetched(_loader(arrays, batch_size, setting).epoch(2), setting.device), plain, strict=True
    ):
        for _ in range(3):
            weight = weight @ weight
            weight /= weight.norm()
        copies = _copy(batch)
        del batch
        # whatever the allocator hands out again too early is overwritten here
        junk = [torch.full_like(expected.images, math.nan) for _ in range(4)]
        require(_same(copies, expected), f"batch {compared} differs")
        del junk
        compared += 1
        if compared == steps:
            break
    return f"{compared} batches"


def _same(one: Batch, other: Batch) -> bool:
    return all(_same_field(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def _same_field(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:  # a view that the method does not ask for
        return one is other
    return same_bits(one, other)


def _copy(batch: Batch) -> Batch:
    given = {field.name: getattr(batch, field.name) for field in fields(batch)}
    copies: dict[str, Any] = {name: None if value is None else value.clone() for name, value in given.items()}
    return Batch(**copies)
