"""Random but reproducible state dicts in the authors' naming, with BatchNorm values away from their defaults.

Floating tensors are float64 and hold values that float32 represents exactly, so that a float32 model loaded from
them starts from the very same numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def random_resnet_state(
    width: int = 4, num_classes: int = 10, blocks: Sequence[int] = (1, 1, 1, 1), seed: int = 0
) -> dict[str, Tensor]:
    """State of a two-branch CIFAR ResNet; stage s has width·2^(s-1) channels and blocks[s-1] basic blocks."""
    draw = _Draw(seed)
    draw.convolution("conv1", 3, width, 3)
    draw.branched_norm("bn1", "bn1_auto", width)
    channels = width
    for stage, count in enumerate(blocks, start=1):
        out_channels = width * 2 ** (stage - 1)
        for index in range(count):
            name, has_stride = f"layer{stage}.{index}", stage > 1 and index == 0
            draw.convolution(f"{name}.conv1", channels, out_channels, 3)
            draw.branched_norm(f"{name}.bn1", f"{name}.bn1_auto", out_channels)
            draw.convolution(f"{name}.conv2", out_channels, out_channels, 3)
            draw.branched_norm(f"{name}.bn2", f"{name}.bn2_auto", out_channels)
            if has_stride or channels != out_channels:
                draw.convolution(f"{name}.shortcut.0", channels, out_channels, 1)
                draw.branched_norm(f"{name}.shortcut_bn.0", f"{name}.shortcut_bn_auto.0", out_channels)
            channels = out_channels
    draw.linear("linear", channels, num_classes)
    return draw.float64_state()


def random_wide_resnet_state(
    width: int = 4, num_classes: int = 10, blocks: Sequence[int] = (1, 1, 1), seed: int = 0, *, stem: int = 16
) -> dict[str, Tensor]:
    """State of a two-branch WideResNet; the stages have width, 2·width and 4·width channels (WRN-34-10: 160)."""
    draw = _Draw(seed)
    draw.convolution("conv1", 3, stem, 3)
    channels = stem
    for stage, count in enumerate(blocks, start=1):
        out_channels = width * 2 ** (stage - 1)
        for index in range(count):
            name = f"block{stage}.layer.{index}"
            draw.branched_norm(f"{name}.bn1", f"{name}.bn1_auto", channels)
            draw.convolution(f"{name}.conv1", channels, out_channels, 3)
            draw.branched_norm(f"{name}.bn2", f"{name}.bn2_auto", out_channels)
            draw.convolution(f"{name}.conv2", out_channels, out_channels, 3)
            if channels != out_channels:
                draw.convolution(f"{name}.convShortcut", channels, out_channels, 1)
            channels = out_channels
    draw.branched_norm("bn1", "bn1_auto", channels)
    draw.linear("fc", channels, num_classes)
    return draw.float64_state()


def random_generator_state(
    num_classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    seed: int = 0,
    *,
    noise_size: int = 100,
    widths: Sequence[int] = (128, 256, 512, 1024),
) -> dict[str, Tensor]:
    """State of the amplitude generator; smaller `widths` make a cheap one for tests (always four of them)."""
    draw = _Draw(seed)
    first, *rest = widths
    draw.linear("model.0", noise_size + num_classes, first)
    channels = first
    for index, out_channels in zip((2, 5, 8), rest, strict=True):
        draw.linear(f"model.{index}", channels, out_channels)
        draw.norm(f"model.{index + 1}", out_channels)
        channels = out_channels
    draw.linear("model.11", channels, shape[0] * shape[1] * shape[2])
    return draw.float64_state()


class _Draw:
    """Fills a state dict from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self._state: dict[str, Tensor] = {}
        self._random = torch.Generator().manual_seed(seed)

    def float64_state(self) -> dict[str, Tensor]:
        return {name: value.double() if value.is_floating_point() else value for name, value in self._state.items()}

    def convolution(self, name: str, channels: int, out_channels: int, size: int) -> None:
        scale = (2 / (out_channels * size * size)) ** 0.5
        self._state[f"{name}.weight"] = scale * self._normal(out_channels, channels, size, size)

    def linear(self, name: str, channels: int, out_channels: int) -> None:
        self._state[f"{name}.weight"] = self._normal(out_channels, channels) / channels**0.5
        self._state[f"{name}.bias"] = 0.1 * self._normal(out_channels)

    def norm(self, name: str, channels: int) -> None:
        self._state[f"{name}.weight"] = 0.5 + self._uniform(channels)
        self._state[f"{name}.bias"] = 0.2 * self._normal(channels)
        self._state[f"{name}.running_mean"] = 0.2 * self._normal(channels)
        self._state[f"{name}.running_var"] = 0.5 + self._uniform(channels)
        self._state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def branched_norm(self, base: str, mix: str, channels: int) -> None:
        self.norm(base, channels)
        self.norm(mix, channels)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._random)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._random)
