"""NVIDIA DALI's loader, where DALI is installed: images per second out of JPEG files."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from bench.gpu_acceptance.inputs import make_images
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting
from dat_engine.data import Augmentation, DaliLoader, ImageFiles, dali_installed

NEEDS = ("dali: the loader",)


def run(setting: Setting, record: Recorder) -> None:
    gate = "dali times: files could be timed"
    if not dali_installed():
        record.skipped(gate, "not installed")
        return
    with record.gate(gate):
        _time(write_jpegs(setting.work / "jpeg", setting), setting, record)


def write_jpegs(folder: Path, setting: Setting) -> list[Path]:
    """Made-up 1/f images of 64 pixels as JPEG files."""
    from torchvision.io import write_jpeg

    folder.mkdir(exist_ok=True)
    images = make_images("one_over_f", (setting.pick(4096, 8), 3, 64, 64)).mul(255).round().to(torch.uint8)
    paths = [folder / f"{index}.jpg" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_jpeg(image, str(path), quality=90)
    return paths


def _time(paths: list[Path], setting: Setting, record: Recorder) -> None:
    size = setting.pick(128, 2)
    names = tuple(map(str, paths))
    source = ImageFiles(
        paths=names,
        targets=torch.arange(len(names)) % 2,
        class_names=("even", "odd"),
        image_size=64,
        resize=64,
    )
    augmentation = Augmentation(padding=4, flip=True)
    loader = DaliLoader(source, batch_size=size, augmentation=augmentation, seed=0, device=setting.device)
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
    record.figure("DALI, JPEG files", count / seconds, "images/s", needs=NEEDS, note=note)
