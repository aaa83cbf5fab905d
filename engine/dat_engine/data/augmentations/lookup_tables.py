"""Lookup tables of the 256 levels that depend on the image, as torchvision.transforms.v2.functional has them."""

import torch
from torch import Tensor

__all__ = ["autocontrast", "equalize", "grey_of"]


def grey_of(levels: Tensor) -> Tensor:
    """Whole levels [B, C, H, W] -> their luminance, whole too, [B, 1, H, W]; of one channel itself."""
    if levels.shape[1] == 1:
        return levels
    red, green, blue = levels.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def autocontrast(levels: Tensor) -> Tensor:
    """Levels [B, C, H, W] -> tables [B, C, 256] that stretch each channel from its darkest to its brightest over 0..255."""
    darkest, brightest = (bound[:, :, None] for bound in (levels.amin(dim=(2, 3)), levels.amax(dim=(2, 3))))
    flat = darkest == brightest
    value = torch.arange(256, device=levels.device, dtype=torch.float32)
    scale = torch.where(flat, 1, (brightest - darkest) * (1 / 255))
    return ((value - torch.where(flat, 0, darkest)) / scale).clamp(0, 255).trunc()


def equalize(index: Tensor) -> Tensor:
    """Levels int64 [B, C, H * W] -> tables float32 [B, C, 256] that make each channel's histogram flat, as Pillow does."""
    histogram = torch.zeros(*index.shape[:2], 256, device=index.device, dtype=torch.int32)
    ones = torch.ones((), device=index.device, dtype=torch.int32).expand_as(index)
    histogram.scatter_add_(2, index, ones)
    of_brightest = histogram.gather(2, index.amax(dim=2, keepdim=True))
    step = (index.shape[2] - of_brightest).div(255, rounding_mode="floor")
    darker = histogram.cumsum(dim=2, dtype=torch.int32) - histogram
    table = (darker + step // 2).div(step.clamp_min(1), rounding_mode="floor").clamp(0, 255)
    unchanged = torch.arange(256, device=index.device, dtype=torch.int32)
    # below the darkest level the table is not asked for, and level 0 stays
    table = torch.where(unchanged == 0, 0, table)
    return torch.where(step == 0, unchanged, table).float()
