"""The draws of one process for one epoch, all at once, and their use: an epoch that starts at a later step finds the same."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dat_engine.data.augmentations.crop import Augmentation, RandomResizedCrop, draw_augmentation
from dat_engine.data.augmentations.cutmix import CutMix
from dat_engine.data.augmentations.interface import Draws, ImageAugmentation
from dat_engine.data.batch import Batch
from dat_engine.data.sampler import EpochSampler
from dat_engine.errors import UserError
from dat_kernels import augment

__all__ = ["EpochView", "Mixer", "augmentations_of_views", "check_augmentations", "draw_view"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpochView:
    """One augmented view of all of an epoch's images: what was drawn for it."""

    crop_offsets: Tensor  # int32 [steps, B, 2]
    flip: Tensor  # bool [steps, B]
    then: ImageAugmentation | None
    draws: Draws  # each [steps, B, ...]

    def images(self, dataset: Tensor, indices: Tensor, step: int) -> Tensor:
        """The view of a step: float32 [B, C, H, W] of ``dataset[indices]``, uint8 [N, C, H, W] and int64 [B]."""
        images = augment(dataset, indices, crop_offsets=self.crop_offsets[step], flip=self.flip[step])
        return images if self.then is None else self.then.apply(images, _of_step(self.draws, step))


def draw_view(
    augmentation: Augmentation | RandomResizedCrop,
    image_shape: tuple[int, int, int],
    order: EpochSampler,
    epoch: int,
    device: torch.device,
    view: int = 0,
) -> EpochView:
    """One process's draws for one view of a whole epoch; a random resized crop's windows are drawn where files are read."""
    padding = augmentation.padding if isinstance(augmentation, Augmentation) else 0
    shape = order.steps_per_epoch, order.batch_size
    generator = order.generator(epoch, device, view)
    crop_offsets, flip = draw_augmentation(
        Augmentation(padding=padding, flip=augmentation.flip), shape[0] * shape[1], generator, device
    )
    then = augmentation.then if isinstance(augmentation.then, ImageAugmentation) else None
    draws: Draws = {} if then is None else then.draw(shape[0] * shape[1], image_shape, generator, device)
    return EpochView(
        crop_offsets=crop_offsets.view(*shape, 2),
        flip=flip.view(shape),
        then=then,
        draws={name: drawn.view(*shape, *drawn.shape[1:]) for name, drawn in draws.items()},
    )


class Mixer:
    """Mixes the images of a batch with each other, where the augmentation of their first view says so."""

    def __init__(
        self,
        augmentation: Augmentation | RandomResizedCrop,
        image_shape: tuple[int, int, int],
        num_classes: int,
        order: EpochSampler,
        epoch: int,
        device: torch.device,
    ) -> None:
        self._mixing = augmentation.then if isinstance(augmentation.then, CutMix) else None
        self._num_classes = num_classes
        self._draws: Mapping[str, Tensor] = {}
        if self._mixing is not None:
            self._draws = self._mixing.draw(
                order.steps_per_epoch, order.batch_size, image_shape, order.mixing_generator(epoch, device), device
            )

    def __call__(self, batch: Batch, step: int) -> Batch:
        """The batch of a step, mixed; the same where nothing is."""
        if self._mixing is None:
            return batch
        return self._mixing.apply(batch, _of_step(self._draws, step), self._num_classes)


def _of_step(draws: Draws, step: int) -> Draws:
    return {name: drawn[step] for name, drawn in draws.items()}


def augmentations_of_views(
    first: Augmentation | RandomResizedCrop,
    extra: Augmentation | RandomResizedCrop | None,
    extra_views: int,
    image_shape: tuple[int, int, int],
    batch_size: int,
) -> list[Augmentation | RandomResizedCrop]:
    """What is done to the first view and to each of the extra ones (None: the same), checked by `check_augmentations`."""
    augmentations = [first] + extra_views * [extra or first]
    check_augmentations(first, augmentations[-1], image_shape, batch_size)
    return augmentations


def check_augmentations(
    first: Augmentation | RandomResizedCrop,
    extra: Augmentation | RandomResizedCrop,
    image_shape: tuple[int, int, int],
    batch_size: int,
) -> None:
    """Raise UserError where images of this shape, in batches of this size, cannot have these views, the first and the extra."""
    for augmentation in (first, extra):
        if augmentation.then is not None:
            augmentation.then.check(image_shape, batch_size)
    if isinstance(extra.then, CutMix) and first.then != extra.then:
        raise UserError(
            "CutMix gives all views of an image one soft label, so the extra views cannot be mixed where the first is not; "
            "choose cutmix for the first view, or another augmentation for the extra ones"
        )
    resized = isinstance(first, RandomResizedCrop) or isinstance(extra, RandomResizedCrop)
    if resized and replace(extra, then=None) != replace(first, then=None):
        raise UserError(
            f"the first view is to be cropped by {first} and the extra views by {extra}; a random resized crop has to be the "
            "same for all views"
        )
