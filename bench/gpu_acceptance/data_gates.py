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
from bench.gpu_acceptance.waiting import waiting_is_an_error
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
    with record.gate("data: augmentations on the device are the CPU's on the same draws") as notes:
        notes.text = check_augmentations(arrays, size, setting)
    with record.gate("data: no augmentation waits for the device inside an epoch"):
        for name in AUGMENTATIONS:
            loader = _loader(arrays, size, setting, _augmentation(name, arrays))
            list(zip(loader.epoch(0), range(2), strict=False))
            with waiting_is_an_error(setting):
                list(zip(loader.epoch(1), range(5), strict=False))


def _loader(
    arrays: ImageArrays, batch_size: int, setting: Setting, augmentation: Augmentation = AUGMENTATION
) -> ResidentLoader:
    return ResidentLoader(arrays, batch_size=batch_size, augmentation=augmentation, seed=1, device=setting.device)


def _augmentation(name: str, arrays: ImageArrays) -> Augmentation:
    augmentation = named_augmentation(name, AUGMENTATION, data_set="cifar10", image_shape=arrays.image_shape)
    assert isinstance(augmentation, Augmentation)
    return augmentation


def check_augmentations(arrays: ImageArrays, batch_size: int, setting: Setting) -> str:
    """A source that lies halfway between two pixels, or a sum that is rounded another way, may be another level on a GPU."""
    cpu, texts = torch.device("cpu"), []
    images = unit_range(arrays.images[: 4 * batch_size].cpu())
    for name in AUGMENTATIONS:
        then = _augmentation(name, arrays).then
        if not isinstance(then, ImageAugmentation):
            continue
        draws = then.draw(len(images), arrays.image_shape, torch.Generator().manual_seed(0), cpu)
        expected = then.apply(images, draws)
        found = then.apply(images.to(setting.device), {key: drawn.to(setting.device) for key, drawn in draws.items()})
        different = (found.cpu() != expected).double().mean().item()
        require(different < 0.005, f"{name}: {100 * different:.2f} % of the values differ")
        require((expected != images).any(), f"{name} changes nothing")
        texts.append(f"{name} {100 * different:.3f} %")
    return "values that differ: " + ", ".join(texts)


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
