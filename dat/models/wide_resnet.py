"""Wide residual networks (Zagoruyko and Komodakis 2016): pre-activation blocks, three stages."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dat_engine.errors import UserError


class PreActivationBlock(nn.Module):
    """BN - ReLU - conv3x3 - BN - ReLU - conv3x3, plus the shortcut; a shortcut convolution starts after the first ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(features))
        out = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        return out + (features if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Depth ``6 n + 4``: n blocks in each of three stages of `width`, `2 width` and `4 width` channels."""

    def __init__(self, depth: int, *, num_classes: int, width: int, in_channels: int = 3) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise UserError(f"a wide residual network has depth 6 n + 4; got {depth}")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = 16
        for stage in range(3):
            layers = []
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(PreActivationBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
            self.add_module(f"block{stage + 1}", nn.Sequential(*layers))
        self.bn1 = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> logits [B, K]."""
        features = self.conv1(images)
        for stage in range(3):
            features = getattr(self, f"block{stage + 1}")(features)
        features = functional.relu(self.bn1(features))
        return self.linear(functional.adaptive_avg_pool2d(features, 1).flatten(1))
