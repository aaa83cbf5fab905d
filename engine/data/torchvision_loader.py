"""The plain loader: torch's DataLoader and torchvision's transforms, the oracle of the faster ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from engine.data.arrays import ImageArrays, unit_range
from engine.data.augmentation import Augmentation
from engine.data.batch import Batch
from engine.data.order import EpochOrder

__all__ = ["TorchvisionLoader"]


class TorchvisionLoader:
    """Training batches of one process, augmented sample by sample on the CPU; see `engine.data.batch.Loader`.

    The arguments of `ResidentLoader` and `workers`, the number of worker processes (0: in this one). Order, originals
    and targets equal those of a ResidentLoader with the same arguments; crops and flips have the same distribution
    but are drawn by torchvision. The global random state of torch is neither used nor changed.

    Raises ValueError where the data set does not fill one batch on every process, or a value is out of range.
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
        workers: int = 0,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers is {workers}; use 0 (no worker process) or a positive number")
        self._order = EpochOrder(
            num_samples=len(arrays), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self._arrays = arrays
        self._transform = _transform(augmentation, arrays.image_shape)
        self._device = torch.device(device)
        self._workers = workers
        self.num_classes = arrays.num_classes
        self.image_shape = arrays.image_shape
        self.class_names = arrays.class_names
        self.batch_size = batch_size
        self.steps_per_epoch = self._order.steps_per_epoch

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; see `engine.data.batch.Loader.epoch`."""
        self._order.check_position(epoch, start_step)
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        order = self._order.indices(epoch, self._device).flatten().tolist()
        samples = _EpochSamples(self._arrays, self._transform, self._order, epoch, order)
        loader = DataLoader(
            samples,
            batch_sampler=[
                list(range(step * self.batch_size, (step + 1) * self.batch_size))
                for step in range(start_step, self.steps_per_epoch)
            ],
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            # Without one of its own the DataLoader would draw its worker seed from torch's global generator.
            generator=torch.Generator(),
        )
        for images, originals, targets, indices in loader:
            yield Batch(
                images=unit_range(images.to(self._device, non_blocking=True)),
                originals=unit_range(originals.to(self._device, non_blocking=True)),
                targets=targets.to(self._device, non_blocking=True),
                indices=indices.to(self._device, non_blocking=True),
            )


class _EpochSamples(Dataset[tuple[Tensor, Tensor, Tensor, int]]):
    """Position in the epoch -> (augmented uint8 image, original uint8 image, target, index in the split)."""

    def __init__(
        self,
        arrays: ImageArrays,
        transform: Callable[[Tensor], Tensor],
        order: EpochOrder,
        epoch: int,
        indices: list[int],
    ) -> None:
        self._arrays = arrays
        self._transform = transform
        self._order = order
        self._epoch = epoch
        self._indices = indices

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, Tensor, int]:
        index = self._indices[position]
        original = self._arrays.images[index]
        with _cpu_random_state(self._order.sample_seed(self._epoch, position)):
            augmented = self._transform(original)
        return augmented, original, self._arrays.targets[index], index


def _transform(augmentation: Augmentation, image_shape: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    # Slow to import, and the other loaders do without it.
    from torchvision.transforms import v2

    steps = [v2.ToImage()]
    if augmentation.padding:
        steps.append(v2.RandomCrop(image_shape[1:], padding=augmentation.padding))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    # Scaling to [0, 1] waits for the batch: v2.ToDtype multiplies by 1/255, which is not always value / 255, and
    # the workers hand over a quarter of the bytes.
    return v2.Compose([*steps, v2.ToPureTensor()])


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
