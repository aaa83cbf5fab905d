"""Plain PyTorch networks for the eager baselines, with the module names of the DAT authors' code.

They share nothing with the engine's networks: a baseline has to run the way published code runs. A state dict in the
authors' naming loads into them strictly.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EagerBasicBlock(nn.Module):
    """conv-bn-relu-conv-bn plus shortcut, with one BatchNorm set per branch."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1, self.bn1_auto = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2, self.bn2_auto = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
        self.shortcut, self.shortcut_bn, self.shortcut_bn_auto = nn.Sequential(), nn.Sequential(), nn.Sequential()
        if stride != 1 or channels != out_channels:
            self.shortcut.append(nn.Conv2d(channels, out_channels, 1, stride, bias=False))
            self.shortcut_bn.append(nn.BatchNorm2d(out_channels))
            self.shortcut_bn_auto.append(nn.BatchNorm2d(out_channels))

    def forward(self, values: Tensor, branch: str) -> Tensor:
        if branch == "base":
            residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(values)))))
            return F.relu(residual + self.shortcut_bn(self.shortcut(values)))
        residual = self.bn2_auto(self.conv2(F.relu(self.bn1_auto(self.conv1(values)))))
        return F.relu(residual + self.shortcut_bn_auto(self.shortcut(values)))


class EagerResNet(nn.Module):
    """CIFAR ResNet of basic blocks: images [B, C, H, W] in [0, 1] and a branch ("base" or "mix") -> logits [B, K]."""

    def __init__(
        self, *, width: int = 64, num_classes: int = 10, blocks: Sequence[int] = (2, 2, 2, 2), in_channels: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1, self.bn1_auto = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.stages = len(blocks)
        channels = width
        for stage, count in enumerate(blocks):
            out_channels = width * 2**stage
            self.add_module(f"layer{stage + 1}", _stage(channels, out_channels, count, 1 if stage == 0 else 2))
            channels = out_channels
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor, branch: str = "base") -> Tensor:
        norm = self.bn1 if branch == "base" else self.bn1_auto
        values = F.relu(norm(self.conv1(images)))
        for stage in range(self.stages):
            for block in getattr(self, f"layer{stage + 1}"):
                values = block(values, branch)
        return self.linear(F.adaptive_avg_pool2d(values, 1).flatten(1))


class EagerAmplitudeGenerator(nn.Module):
    """z [B, noise_size] and logits [B, K] -> amplitude [B, C, H, W] in [0, 1], in the centred (fftshift) layout."""

    def __init__(
        self,
        *,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        noise_size: int = 100,
        widths: Sequence[int] = (128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        layers: list[nn.Module] = [nn.Linear(noise_size + num_classes, widths[0]), nn.LeakyReLU(0.2)]
        for channels, out_channels in pairwise(widths):
            layers += [nn.Linear(channels, out_channels), nn.BatchNorm1d(out_channels, eps=0.8), nn.LeakyReLU(0.2)]
        layers += [nn.Linear(widths[-1], image_shape[0] * image_shape[1] * image_shape[2]), nn.Sigmoid()]
        self.model = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, z: Tensor, logits: Tensor) -> Tensor:
        return self.model(torch.cat([z, logits], dim=1)).reshape(-1, *self.image_shape)


def _stage(channels: int, out_channels: int, count: int, stride: int) -> nn.Sequential:
    first = EagerBasicBlock(channels, out_channels, stride)
    return nn.Sequential(first, *(EagerBasicBlock(out_channels, out_channels, 1) for _ in range(count - 1)))
