"""The fast loader: the whole data set lies on the device as uint8 and is shuffled and augmented there."""

from collections.abc import Iterator

import torch

from dat_engine.data.arrays import ImageArrays
from dat_engine.data.augmentations.crop import Augmentation
from dat_engine.data.augmentations.epoch import Mixer, augmentations_of_views, draw_view
from dat_engine.data.batch import Batch
from dat_engine.data.sampler import EpochSampler
from dat_kernels import augment

__all__ = ["ResidentLoader"]


class ResidentLoader:
    """Training batches of one process out of device memory; see `dat_engine.data.batch.Loader`.

    arrays: the training split, copied to `device`; batch_size: samples per process; rank, world_size: which part of
    every epoch is this process's; damaged_files: what was found while the arrays were decoded from files, if they
    were; extra_views: augmented views beside the first; extra_augmentation: what is done to those, None: the same. No call in
    the epoch loop waits for the device.

    Raises UserError where the data set does not fill one batch on every process, or a value is out of range.
    """

    def __init__(
        self,
        arrays: ImageArrays,
        *,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
        damaged_files: tuple[str, ...] = (),
        extra_views: int = 0,
        extra_augmentation: Augmentation | None = None,
    ) -> None:
        self._order = EpochSampler(
            num_samples=len(arrays), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self._augmentations = augmentations_of_views(
            augmentation, extra_augmentation, extra_views, arrays.image_shape, batch_size
        )
        self._device = torch.device(device)
        self._images = arrays.images.to(self._device).contiguous()
        self._targets = arrays.targets.to(self._device)
        self.num_classes = arrays.num_classes
        self.image_shape = arrays.image_shape
        self.class_names = arrays.class_names
        self.batch_size = batch_size
        self.steps_per_epoch = self._order.steps_per_epoch
        self.damaged_files = damaged_files

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; see `dat_engine.data.batch.Loader.epoch`."""
        self._order.check_position(epoch, start_step)
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        indices = self._order.indices(epoch, self._device)
        views = [
            draw_view(augmentation, self.image_shape, self._order, epoch, self._device, view)
            for view, augmentation in enumerate(self._augmentations)
        ]
        mixed = Mixer(self._augmentations[0], self.image_shape, self.num_classes, self._order, epoch, self._device)
        for step in range(start_step, self.steps_per_epoch):
            images, *extra = (view.images(self._images, indices[step], step) for view in views)
            batch = Batch(
                images=images,
                originals=augment(self._images, indices[step]),
                targets=self._targets[indices[step]],
                indices=indices[step],
                extra_views=torch.stack(extra) if extra else None,
            )
            yield mixed(batch, step)
