"""NVIDIA DALI's loader, where DALI is installed: the resident loader's batches, JPEG files, images per second."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from bench.gpu_acceptance.inputs import make_images, training_images
from bench.gpu_acceptance.kernel_backend import same_bits
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat_engine.data import Augmentation, DaliLoader, ImageFiles, ImageSource, ResidentLoader, dali_installed

NAME = "dali: the loader"
AUGMENTATION = Augmentation(padding=4, flip=True)
DECODED_DIFFERENCE = 2.0
"""Mean difference, in 8-bit steps, between two JPEG decoders with different upsampling of colours."""


def run(setting: Setting, record: Recorder) -> None:
    if not dali_installed():
        record.skipped(NAME, "not installed")
        return
    with record.gate(f"{NAME} gives the resident loader's batches from images in memory"):
        _same_as_resident(setting)
    files = setting.work / "jpeg"
    with record.gate(f"{NAME} decodes JPEG files") as notes:
        paths = write_jpegs(files, setting)
        notes.text = _decodes(paths, setting)
    with record.gate("dali times: files could be timed"):
        _time(paths, setting, record)


def _loader(source: ImageSource, setting: Setting, batch_size: int) -> DaliLoader:
    return DaliLoader(source, batch_size=batch_size, augmentation=AUGMENTATION, seed=0, device=setting.device)


def _same_as_resident(setting: Setting) -> None:
    arrays = training_images(setting)
    size = setting.pick(128, 4)
    resident = ResidentLoader(arrays, batch_size=size, augmentation=AUGMENTATION, seed=0, device=setting.device).epoch(
        0
    )
    on_host = type(arrays)(images=arrays.images.cpu(), targets=arrays.targets.cpu(), class_names=arrays.class_names)
    for step, (batch, expected) in enumerate(zip(_loader(on_host, setting, size).epoch(0), resident, strict=True)):
        for name in ("images", "originals", "targets", "indices"):
            require(same_bits(getattr(batch, name), getattr(expected, name)), f"{name} of step {step} differ")
        require(batch.images.device == setting.device, f"images are on {batch.images.device}")
        if step == setting.pick(50, 2):
            break


def write_jpegs(folder: Path, setting: Setting) -> list[Path]:
    """Made-up 1/f images of 64 pixels as JPEG files."""
    from torchvision.io import write_jpeg

    folder.mkdir(exist_ok=True)
    images = make_images("one_over_f", (setting.pick(4096, 8), 3, 64, 64)).mul(255).round().to(torch.uint8)
    paths = [folder / f"{index}.jpg" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_jpeg(image, str(path), quality=90)
    return paths


def _source(paths: list[Path]) -> ImageFiles:
    targets = torch.arange(len(paths)) % 2
    names = tuple(map(str, paths))
    return ImageFiles(paths=names, targets=targets, class_names=("even", "odd"), image_size=64, resize=64)


def _decodes(paths: list[Path], setting: Setting) -> str:
    from torchvision.io import decode_image

    worst = 0.0
    for step, batch in enumerate(_loader(_source(paths), setting, setting.pick(64, 2)).epoch(0)):
        require(torch.equal(batch.targets, batch.indices % 2), f"labels of step {step} are other images'")
        for image, index in zip(batch.originals.cpu(), batch.indices.tolist(), strict=True):
            expected = decode_image(str(paths[index]))
            worst = max(worst, float((image * 255 - expected).abs().mean()))
        if step == 1:
            break
    require(worst < DECODED_DIFFERENCE, f"an image differs by {worst:.2f} steps of 255 on average")
    return f"mean difference at most {worst:.2f} of 255"


def _time(paths: list[Path], setting: Setting, record: Recorder) -> None:
    size = setting.pick(128, 2)
    loader = _loader(_source(paths), setting, size)
    count, started = 0, 0.0
    for epoch in range(setting.pick(6, 1)):
        for batch in loader.epoch(epoch):
            if epoch == 0:
                continue  # pipelines start and files come into the page cache
            count += len(batch.targets)
        if setting.device.type == "cuda":
            torch.cuda.synchronize()
        if epoch == 0:
            started = time.perf_counter()
    seconds = time.perf_counter() - started
    note = "64-pixel JPEG files to two augmented views on the device"
    record.figure("DALI, JPEG files", count / seconds, "images/s", needs=(NAME,), note=note)
