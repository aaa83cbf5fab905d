"""Gather, crop and flip, literally, in plain PyTorch: the oracle of every other backend."""

import torch
from torch import Tensor


def serves(dataset: Tensor, *others: Tensor) -> str | None:
    return None


def forward(dataset: Tensor, indices: Tensor, crop_offsets: Tensor | None, flip: Tensor | None, out: Tensor) -> None:
    """Write `dataset[indices] / 255`, cropped and flipped, into `out`.

    The division happens in out's dtype for float32 and float64, in float32 for narrower ones.
    """
    compute = torch.promote_types(out.dtype, torch.float32)
    images = dataset[indices].to(compute).div(255)
    out.copy_(crop_and_flip(images, crop_offsets, flip))


def crop_and_flip(images: Tensor, crop_offsets: Tensor | None, flip: Tensor | None) -> Tensor:
    """out[b, c, y, x] = images[b, c, y + dy, x_ + dx], and 0 where that lies outside the image.

    Args:
        images: [B, C, H, W], any dtype.
        crop_offsets: [B, 2] integers, (dy, dx) per sample; None is no shift.
        flip: [B] bool; x_ = W - 1 - x where set, x elsewhere; None is no flip.
    """
    if crop_offsets is None and flip is None:
        return images
    batch, channels, height, width = images.shape
    rows, columns = source_rows_and_columns(batch, height, width, crop_offsets, flip, images.device)
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    rows = rows.clamp(0, height - 1)[:, None, :, None].expand(batch, channels, height, width)
    columns = columns.clamp(0, width - 1)[:, None, None, :].expand(batch, channels, height, width)
    return torch.where(inside, images.gather(2, rows).gather(3, columns), 0)


def source_rows_and_columns(
    batch: int, height: int, width: int, crop_offsets: Tensor | None, flip: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row [B, H] and column [B, W] of the source pixel for each output row and column; they may lie outside."""
    rows = torch.arange(height, device=device).expand(batch, height)
    columns = torch.arange(width, device=device).expand(batch, width)
    if flip is not None:
        columns = torch.where(flip[:, None], width - 1 - columns, columns)
    if crop_offsets is not None:
        rows = rows + crop_offsets[:, 0:1].long()
        columns = columns + crop_offsets[:, 1:2].long()
    return rows, columns


def adjoint_offsets(crop_offsets: Tensor | None, flip: Tensor | None) -> Tensor | None:
    """Offsets with which `crop_and_flip` (same `flip`) is the adjoint of `crop_and_flip` with `crop_offsets`.

    A crop is a gather whose transpose is the gather with negated offsets; behind a flip the column's sign comes back.
    """
    if crop_offsets is None:
        return None
    negated = -crop_offsets
    if flip is None:
        return negated
    return torch.stack([negated[:, 0], torch.where(flip, crop_offsets[:, 1], negated[:, 1])], dim=1)
