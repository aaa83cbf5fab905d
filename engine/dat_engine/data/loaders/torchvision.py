"""The plain loader: torch's DataLoader and torchvision's transforms, the oracle of the faster ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dat_engine.data.arrays import ImageArrays, unit_range
from dat_engine.data.augmentations.crop import NO_RESIZED_CROP_OF_ARRAYS, Augmentation, RandomResizedCrop
from dat_engine.data.augmentations.epoch import Mixer, augmentations_of_views
from dat_engine.data.augmentations.interface import ImageAugmentation
from dat_engine.data.batch import Batch
from dat_engine.data.errors import DataError
from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.decoding import CorruptImage, centre_view, decode, examine
from dat_engine.data.files.files import ImageFiles, ImageSource
from dat_engine.data.loaders.workers import batches_of_workers
from dat_engine.data.sampler import EpochSampler
from dat_engine.errors import UserError

__all__ = ["TorchvisionLoader"]

# augmented uint8 [B, V, C, H, W], original uint8 [B, C, H, W], position in the epoch [B], whether the file was decoded [B]
_Collated = tuple[Tensor, Tensor, Tensor, Tensor]


class TorchvisionLoader:
    """Training batches of one process, augmented sample by sample on the CPU; see `dat_engine.data.batch.Loader`.

    source: images in memory or in files; batch_size, seed, device, rank, world_size: as for a `ResidentLoader`;
    augmentation: `RandomResizedCrop` is for files alone; workers: number of worker processes (0: in this one);
    extra_views: augmented views beside the first; extra_augmentation: what is done to those, None: the same.

    Order, targets and, for images in memory, originals equal those of a ResidentLoader with the same arguments; crops
    and flips, and what follows them, have the same distribution but are drawn by torchvision or in its way. CutMix is done
    in the batch, with the numbers of a ResidentLoader. The global random state of torch is neither used nor changed.

    Raises UserError where the data set does not fill one batch on every process, or a value is out of range.
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
        workers: int = 0,
        extra_views: int = 0,
        extra_augmentation: Augmentation | RandomResizedCrop | None = None,
    ) -> None:
        if workers < 0:
            raise UserError(f"workers is {workers}; use 0 (no worker process) or a positive number")
        self._order = EpochSampler(
            num_samples=len(source), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self._augmentation = augmentation
        self._views = _Views(
            source,
            augmentations_of_views(augmentation, extra_augmentation, extra_views, source.image_shape, batch_size),
        )
        self._damaged = CorruptFiles(source) if isinstance(source, ImageFiles) else None
        self._targets = source.targets.cpu()
        self._device = torch.device(device)
        self._workers = workers
        self.num_classes = source.num_classes
        self.image_shape = source.image_shape
        self.class_names = source.class_names
        self.batch_size = batch_size
        self.steps_per_epoch = self._order.steps_per_epoch

    @property
    def damaged_files(self) -> tuple[str, ...]:
        """See `dat_engine.data.batch.Loader.damaged_files`."""
        return self._damaged.paths if self._damaged is not None else ()

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; see `dat_engine.data.batch.Loader.epoch`."""
        self._order.check_position(epoch, start_step)
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        indices = self._order.indices(epoch, self._device).flatten().tolist()
        if self._damaged is not None:
            indices = [self._damaged.stand_in(index) for index in indices]
        samples = _EpochSamples(self._views, self._order, epoch, indices)

        def loader_from(first: int) -> DataLoader[Any]:
            return DataLoader(
                samples,
                batch_sampler=[
                    list(range(step * self.batch_size, (step + 1) * self.batch_size))
                    for step in range(first, self.steps_per_epoch)
                ],
                num_workers=self._workers,
                pin_memory=self._device.type == "cuda",
                # Without one of its own the DataLoader would draw its worker seed from torch's global generator.
                generator=torch.Generator(),
            )

        mixed = Mixer(self._augmentation, self.image_shape, self.num_classes, self._order, epoch, self._device)
        for step, collated in enumerate(batches_of_workers(loader_from, start_step), start=start_step):
            yield mixed(self._batch(collated, samples), step)

    def _batch(self, collated: _Collated, samples: "_EpochSamples") -> Batch:
        images, originals, positions, decoded = collated
        for row in (~decoded).nonzero().squeeze(1).tolist():
            images[row], originals[row] = self._replaced(int(positions[row]), samples)
        indices = torch.tensor([samples.indices[position] for position in positions.tolist()])
        views = unit_range(images.to(self._device, non_blocking=True)).transpose(0, 1).contiguous()
        return Batch(
            images=views[0],
            extra_views=views[1:] if len(views) > 1 else None,
            originals=unit_range(originals.to(self._device, non_blocking=True)),
            targets=self._targets[indices].to(self._device, non_blocking=True),
            indices=indices.to(self._device, non_blocking=True),
        )

    def _replaced(self, position: int, samples: "_EpochSamples") -> tuple[Tensor, Tensor]:
        """The two views of the sample that takes the place of one that a worker could not decode."""
        assert self._damaged is not None  # images in memory are never damaged
        while examine(samples.indices[position], self._damaged):
            samples.indices[position] = self._damaged.stand_in(samples.indices[position])
        return samples.views(position)


class _Views:
    """Index -> (augmented uint8 images [V, C, H, W], original uint8 image); draws from torch's CPU generator."""

    def __init__(self, source: ImageSource, augmentations: Sequence[Augmentation | RandomResizedCrop]) -> None:
        self._augments_whole_file = isinstance(augmentations[0], RandomResizedCrop)
        if isinstance(source, ImageArrays) and self._augments_whole_file:
            raise UserError(NO_RESIZED_CROP_OF_ARRAYS)
        self.shape = (len(augmentations), *source.image_shape)
        self._source = source
        self._augment = [_transform(augmentation, source.image_shape) for augmentation in augmentations]

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        if isinstance(self._source, ImageArrays):
            original = pixels = self._source.images[index]
        else:
            pixels = decode(self._source.paths[index])
            original = centre_view(pixels, self._source)
        augmented = [augment(pixels if self._augments_whole_file else original) for augment in self._augment]
        return torch.stack(augmented), original


class _EpochSamples(Dataset[tuple[Tensor, Tensor, int, bool]]):
    """Position in the epoch -> (augmented uint8 images, original uint8 image, the position, whether that worked)."""

    def __init__(self, views: _Views, order: EpochSampler, epoch: int, indices: list[int]) -> None:
        self.indices = indices
        self._views = views
        self._order = order
        self._epoch = epoch

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int, bool]:
        try:
            return *self.views(position), position, True
        except (CorruptImage, DataError):
            # Out of a worker process an error would come as a traceback inside a message; the loader looks again.
            blank = torch.zeros(self._views.shape, dtype=torch.uint8)
            return blank, blank[0], position, False

    def views(self, position: int) -> tuple[Tensor, Tensor]:
        with _cpu_random_state(self._order.sample_seed(self._epoch, position)):
            return self._views(self.indices[position])


def _transform(
    augmentation: Augmentation | RandomResizedCrop, image_shape: tuple[int, int, int]
) -> Callable[[Tensor], Tensor]:
    # Slow to import, and the other loaders do without it.
    from torchvision.transforms import v2

    steps: list[torch.nn.Module] = [v2.ToImage()]
    if isinstance(augmentation, RandomResizedCrop):
        steps.append(v2.RandomResizedCrop(image_shape[1:], scale=augmentation.scale, ratio=augmentation.ratio))
    elif augmentation.padding:
        steps.append(v2.RandomCrop(image_shape[1:], padding=augmentation.padding))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    # Scaling to [0, 1] waits for the batch: v2.ToDtype multiplies by 1/255, which is not always value / 255, and
    # the workers hand over a quarter of the bytes.
    steps.append(v2.ToPureTensor())
    if isinstance(augmentation.then, ImageAugmentation):
        return v2.Compose([*steps, augmentation.then.apply_to_sample])
    return v2.Compose(steps)


@contextmanager
def _cpu_random_state(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, from which torchvision draws, and put it back afterwards."""
    before = torch.default_generator.get_state()
    # torch.manual_seed would reseed the CUDA generators as well, and those are not put back.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
