"""Rectangles, one for every image."""

import torch
from torch import Tensor

__all__ = ["clipped_boxes", "erased", "inside"]


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Whether a pixel lies in its image's box: boxes [B, 4], (top, left, bottom, right), the end excluded -> [B, 1, H, W]."""
    top, left, bottom, right = (edge[:, None] for edge in boxes.unbind(dim=1))
    row, column = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    in_rows, in_columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


def erased(images: Tensor, boxes: Tensor) -> Tensor:
    """Images [B, C, H, W] with 0 (black) in their boxes [B, 4]."""
    return images.masked_fill(inside(boxes, images.shape[2], images.shape[3]), 0)


def clipped_boxes(centre: Tensor, half: Tensor, height: int, width: int) -> Tensor:
    """Boxes [B, 4] that reach `half` [B, 2] to each side of `centre` [B, 2], (y, x), as far as there is an image."""
    limit = torch.stack([torch.full_like(half[:, 0], height), torch.full_like(half[:, 1], width)], dim=1)
    return torch.cat([(centre - half).clamp_min(0), torch.minimum(centre + half, limit)], dim=1).to(torch.int32)
