"""Random crop with zero padding and horizontal flip: the settings and the draws."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dat_engine.data.sampler import EpochSampler
from dat_engine.errors import UserError

__all__ = ["Augmentation", "draw_augmentation", "draw_epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Crop to the image's own size after padding with `padding` zeros on each side; flip half of the images if `flip`.

    Raises ValueError for a negative padding.
    """

    padding: int
    flip: bool

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise UserError(f"padding is {self.padding}; use 0 (no crop) or a positive number of pixels")


def draw_augmentation(
    augmentation: Augmentation, batch_size: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Draw (crop_offsets, flip) for `batch_size` samples on `device`, where `generator` must live too.

    crop_offsets: int32 [B, 2], (dy, dx) uniform in -padding..padding; flip: bool [B], true for half of the samples
    on average, for none where the augmentation does not flip. The meaning of both is that of `dat_kernels.augment`.
    """
    crop_offsets = torch.randint(
        -augmentation.padding,
        augmentation.padding + 1,
        (batch_size, 2),
        generator=generator,
        device=device,
        dtype=torch.int32,
    )
    if augmentation.flip:
        flip = torch.rand(batch_size, generator=generator, device=device) < 0.5
    else:
        flip = torch.zeros(batch_size, dtype=torch.bool, device=device)
    return crop_offsets, flip


def draw_epoch(
    augmentation: Augmentation, order: EpochSampler, epoch: int, device: torch.device, view: int = 0
) -> tuple[Tensor, Tensor]:
    """One process's draws for one view of a whole epoch: crop_offsets [steps, B, 2], flip [steps, B]; see `draw_augmentation`.

    All at once: an epoch that starts at a later step then finds the same numbers at the same place.
    """
    shape = order.steps_per_epoch, order.batch_size
    crop_offsets, flip = draw_augmentation(
        augmentation, shape[0] * shape[1], order.generator(epoch, device, view), device
    )
    return crop_offsets.view(*shape, 2), flip.view(shape)
