"""Images to work on: made up, never zeros."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench.gpu_acceptance.setting import Setting
from bench.one_over_f import one_over_f
from dat_engine.data import ImageArrays, load

CIFAR_IMAGES = 50_000
_CHUNK = 5_000
_CLASSES = tuple(f"class {index}" for index in range(10))


def make_images(
    kind: Literal["one_over_f", "random"],
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """float32 [B, C, H, W] in [0, 1], of 8-bit values but for `random`; drawn on `device`, the CPU by default."""
    if kind == "one_over_f":
        return one_over_f(shape, seed=seed, device=device)
    return torch.rand(shape, generator=torch.Generator(device or "cpu").manual_seed(seed), device=device)


def training_images(setting: Setting) -> ImageArrays:
    """CIFAR-10's training split where its folder was given, else as many made-up images of its shape, on the device."""
    if setting.data_root is not None and not setting.rehearsal:
        arrays = load("cifar10", root=setting.data_root, split="train", download=False)
        assert isinstance(arrays, ImageArrays)
        return arrays
    count, shape = setting.pick(CIFAR_IMAGES, 96), setting.pick((3, 32, 32), (3, 16, 16))
    chunks = [
        make_images("one_over_f", (size, *shape), seed=index, device=setting.device).mul(255).round().to(torch.uint8)
        for index, size in enumerate(_chunks(count))
    ]
    targets = torch.randint(0, 10, (count,), generator=torch.Generator().manual_seed(0)).to(setting.device)
    return ImageArrays(images=torch.cat(chunks), targets=targets, class_names=_CLASSES)


def _chunks(count: int) -> list[int]:
    return [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
