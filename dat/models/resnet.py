"""Residual networks for small images (He et al. 2016): 3x3 stem, no pooling before the stages, global average pooling."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """conv3x3 - BN - ReLU - conv3x3 - BN, plus the shortcut, then ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(features))


class ResNet(nn.Module):
    """`blocks[i]` basic blocks in stage i, of `width * 2**i` channels; every stage but the first halves the resolution."""

    def __init__(self, blocks: tuple[int, ...], *, num_classes: int, width: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        self.stages = len(blocks)
        for stage, depth in enumerate(blocks):
            layers = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(BasicBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> logits [B, K]."""
        features = functional.relu(self.bn1(self.conv1(images)))
        for stage in range(self.stages):
            features = getattr(self, f"layer{stage + 1}")(features)
        return self.linear(functional.adaptive_avg_pool2d(features, 1).flatten(1))
