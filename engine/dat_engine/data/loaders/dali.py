"""The loader for data that do not fit on the device: NVIDIA DALI reads, decodes and scales image files."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dat_engine.data.arrays import ImageArrays
from dat_engine.data.augmentations.crop import NO_RESIZED_CROP_OF_ARRAYS, Augmentation, RandomResizedCrop
from dat_engine.data.augmentations.epoch import Mixer, augmentations_of_views, draw_view
from dat_engine.data.batch import Batch
from dat_engine.data.files.decoding import usable_cores
from dat_engine.data.files.files import ImageSource
from dat_engine.data.loaders.dali_pipeline import ViewsPipeline, dali_installed
from dat_engine.data.loaders.dali_requests import ArrayRequests, FileRequests, WindowRequests
from dat_engine.data.sampler import EpochSampler
from dat_engine.errors import UserError
from dat_kernels import augment

__all__ = ["DaliLoader"]


class DaliLoader:
    """Training batches of one process through NVIDIA DALI; see `dat_engine.data.batch.Loader`.

    source: files, decoded on the GPU where `device` is one and on the CPU elsewhere, or images in memory, which are
    gathered on the CPU and sent over; batch_size, seed, device, rank, world_size: as for a `ResidentLoader`;
    augmentation: `RandomResizedCrop` is for files alone; threads: CPU threads of DALI, None for the cores that this
    process may use; extra_views: augmented views beside the first; extra_augmentation: what is done to those, None: the same.

    DALI makes uint8 images; the views of them are made on the device, with the draws of a ResidentLoader: from images in
    memory both loaders give the same batches to the bit. One decode thus serves all views, and nothing that DALI does is
    random: its own AutoAugment draws inside of the pipeline, which could then not start in the middle of an epoch. (Measured
    on two cores with 64-pixel JPEGs: decoding takes 35 µs of CPU time per image, two calls of `dat_kernels.augment` 5 µs.)
    The window of a random resized crop is drawn here as well and cut by DALI, which alone has the whole file's pixels.

    When DALI fails, which it does for a whole batch, the files of that batch are decoded one by one to find the
    damaged ones; then a new pipeline goes on from the same position.

    Raises UserError where DALI is not installed, the data set does not fill one batch on every process, or a value
    is out of range.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        batch_size: int,
        augmentation: Augmentation | RandomResizedCrop,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        extra_views: int = 0,
        extra_augmentation: Augmentation | RandomResizedCrop | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise UserError(f"threads is {threads}; use at least 1, or None for the cores that this process may use")
        if not dali_installed():
            raise UserError(
                "this loader needs NVIDIA DALI; install it with: pip install 'dat-engine[dali]' (Linux), "
                "or use the torchvision loader"
            )
        self._order = EpochSampler(
            num_samples=len(source), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self._requests = _requests(source, augmentation, self._order, 1 + extra_views)
        self._augmentations = augmentations_of_views(
            augmentation, extra_augmentation, extra_views, source.image_shape, batch_size
        )
        self._device = torch.device(device)
        self._threads = threads or usable_cores()
        self._targets = source.targets.to(self._device)
        self._rows = torch.arange(batch_size, device=self._device)
        self._idle: ViewsPipeline | None = None
        self.num_classes = source.num_classes
        self.image_shape = source.image_shape
        self.class_names = source.class_names
        self.batch_size = batch_size
        self.steps_per_epoch = self._order.steps_per_epoch

    @property
    def damaged_files(self) -> tuple[str, ...]:
        """See `dat_engine.data.batch.Loader.damaged_files`."""
        return self._requests.damaged_files

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; see `dat_engine.data.batch.Loader.epoch`."""
        self._order.check_position(epoch, start_step)
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        indices = self._order.indices(epoch, self._device)
        draws = [
            draw_view(augmentation, self.image_shape, self._order, epoch, self._device, view)
            for view, augmentation in enumerate(self._augmentations)
        ]
        mixed = Mixer(self._augmentations[0], self.image_shape, self.num_classes, self._order, epoch, self._device)
        wanted = indices.tolist()  # the one wait for the device in an epoch
        for step, (used, views) in enumerate(self._answers(epoch, start_step, wanted), start=start_step):
            chosen = indices[step] if used == wanted[step] else torch.tensor(used, device=self._device)
            originals, *windows = views
            images, *extra = (
                drawn.images(windows[view] if windows else originals, self._rows, step)
                for view, drawn in enumerate(draws)
            )
            batch = Batch(
                images=images,
                originals=augment(originals, self._rows),
                targets=self._targets[chosen],
                indices=chosen,
                extra_views=torch.stack(extra) if extra else None,
            )
            yield mixed(batch, step)

    def _answers(
        self, epoch: int, start_step: int, wanted: list[list[int]]
    ) -> Iterator[tuple[list[int], tuple[Tensor, ...]]]:
        """For every step the samples that were used and their uint8 views; over again where DALI failed."""
        step = start_step
        while step < self.steps_per_epoch:
            # Taken away while in use: an epoch that runs beside this one gets a pipeline of its own.
            pipeline, self._idle = self._idle, None
            if pipeline is None:
                pipeline = self._requests.pipeline(
                    batch_size=self.batch_size, threads=self._threads, device=self._device
                )
            asked: deque[list[int]] = deque()
            failure = None
            try:
                for views in pipeline.run(self._asking(epoch, range(step, self.steps_per_epoch), wanted, asked)):
                    yield asked.popleft(), views
                    step += 1
            except RuntimeError as error:
                failure = error
            if failure is None:
                self._idle = pipeline
            elif not self._requests.find_damage(asked, threads=self._threads, device=self._device):
                raise failure

    def _asking(self, epoch: int, steps: range, wanted: list[list[int]], asked: deque[list[int]]) -> Iterator[Any]:
        """The requests of these steps; DALI draws them ahead, and what it has drawn is noted in `asked`."""
        for step in steps:
            used = [self._requests.usable(index) for index in wanted[step]]
            asked.append(used)
            yield self._requests.request(used, epoch, step)


def _requests(
    source: ImageSource, augmentation: Augmentation | RandomResizedCrop, order: EpochSampler, views: int
) -> ArrayRequests | FileRequests:
    if isinstance(source, ImageArrays):
        if isinstance(augmentation, RandomResizedCrop):
            raise UserError(NO_RESIZED_CROP_OF_ARRAYS)
        return ArrayRequests(source)
    if isinstance(augmentation, RandomResizedCrop):
        return WindowRequests(source, augmentation, order, views)
    return FileRequests(source)
