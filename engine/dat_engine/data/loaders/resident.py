"""The fast loader: the whole data set lies on the device as uint8 and is shuffled and augmented there."""

from collections.abc import Iterator

import torch

from dat_engine.data.arrays import ImageArrays
from dat_engine.data.augmentation import Augmentation, draw_epoch
from dat_engine.data.batch import Batch
from dat_engine.data.sampler import EpochSampler
from dat_kernels import augment

__all__ = ["ResidentLoader"]


class ResidentLoader:
    """Training batches of one process out of device memory; see `dat_engine.data.batch.Loader`.

    arrays: the training split, copied to `device`; batch_size: samples per process; rank, world_size: which part of
    every epoch is this process's; damaged_files: what was found while the arrays were decoded from files, if they
    were; extra_views: augmented views beside the first. No call in the epoch loop waits for the device.

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
    ) -> None:
        self._order = EpochSampler(
            num_samples=len(arrays), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self._augmentation = augmentation
        self._views = range(1 + extra_views)
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
        draws = [draw_epoch(self._augmentation, self._order, epoch, self._device, view) for view in self._views]
        for step in range(start_step, self.steps_per_epoch):
            images, *extra = (
                augment(self._images, indices[step], crop_offsets=crop_offsets[step], flip=flip[step])
                for crop_offsets, flip in draws
            )
            yield Batch(
                images=images,
                originals=augment(self._images, indices[step]),
                targets=self._targets[indices[step]],
                indices=indices[step],
                extra_views=torch.stack(extra) if extra else None,
            )
