"""Training loaders for what a caller holds already: tensors or arrays, a data set of torch, a DataLoader.

Images are uint8, or floating point in [0, 1]; targets int64 [B] or soft, float32 [B, K]. Nothing is augmented here (what a
data set or a DataLoader does itself is its own business), so `originals` are the images.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dat_engine.data.arrays import UNIT_TOLERANCE, unit_range
from dat_engine.data.batch import Batch
from dat_engine.data.errors import DataError
from dat_engine.data.sampler import EpochSampler
from dat_engine.errors import UserError

__all__ = [
    "BatchesLoader",
    "DatasetLoader",
    "TensorLoader",
    "first_image",
    "image_tensor",
    "random_states_put_back",
    "target_tensor",
]


class _GivenLoader:
    """What the loaders of this file have in common; see `dat_engine.data.batch.Loader`."""

    damaged_files: tuple[str, ...] = ()

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int], batch_size: int, device: torch.device):
        self.num_classes = num_classes
        self.class_names = tuple(str(number) for number in range(num_classes))
        self.image_shape = image_shape
        self.batch_size = batch_size
        self._device = device


class TensorLoader(_GivenLoader):
    """Batches of one process out of images [N, C, H, W] and targets in memory, copied to `device` whole.

    The order is that of a `ResidentLoader` with the same seed. There are no extra views: nothing is augmented.

    Raises UserError where the images do not fill one batch on every process.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        num_classes: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        channels, height, width = images.shape[1:]
        super().__init__(num_classes, (channels, height, width), batch_size, device)
        self._order = EpochSampler(
            num_samples=len(images), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self._images, self._targets = images.to(device), targets.to(device)
        self.steps_per_epoch = self._order.steps_per_epoch

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; see `dat_engine.data.batch.Loader.epoch`."""
        self._order.check_position(epoch, start_step)
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        indices = self._order.indices(epoch, self._device)
        for step in range(start_step, self.steps_per_epoch):
            images = _in_unit_range(self._images[indices[step]])
            yield Batch(
                images=images,
                originals=images,
                targets=self._targets[indices[step]],
                indices=indices[step],
            )


class DatasetLoader(_GivenLoader):
    """Batches of one process out of a map-style data set of torch, whose items are (image, label).

    Every item is fetched with the random states of Python, NumPy and torch seeded by (seed, epoch, position), so that the
    data set's own augmentation repeats itself, in a resumed epoch too; they are put back afterwards. An extra view fetches
    the item again with a seed of its own.

    Args:
        workers: processes that fetch items; 0: this one.

    Raises UserError where the data set has no length or does not fill one batch on every process.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        num_classes: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        extra_views: int = 0,
    ) -> None:
        image = first_image(dataset)
        channels, height, width = image.shape
        super().__init__(num_classes, (channels, height, width), batch_size, device)
        self._dataset = dataset
        self._order = EpochSampler(
            num_samples=len(dataset),  # type: ignore[arg-type]
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self._workers = workers
        self._views = 1 + extra_views
        self.steps_per_epoch = self._order.steps_per_epoch

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; see `dat_engine.data.batch.Loader.epoch`."""
        self._order.check_position(epoch, start_step)
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        indices = self._order.indices(epoch, self._device).cpu()
        loader = DataLoader(
            _SeededItems(self._dataset, self._order, epoch, indices.flatten(), self._views),
            batch_sampler=[
                list(range(step * self.batch_size, (step + 1) * self.batch_size))
                for step in range(start_step, self.steps_per_epoch)
            ],
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # without one of its own the DataLoader would draw from torch's global generator
        )
        for step, (views, targets) in enumerate(loader, start=start_step):
            if step > start_step:  # the first one is looked at, with more to say, before the first step
                _check_batch(f"batch {step} of the data set", views, targets, self.num_classes)
            first, *extra = _in_unit_range(views.to(self._device, non_blocking=True)).unbind(1)
            yield Batch(
                images=first.contiguous(),
                originals=first.contiguous(),
                targets=targets.to(self._device, non_blocking=True),
                indices=indices[step].to(self._device, non_blocking=True),
                extra_views=torch.stack(extra) if extra else None,
            )


class BatchesLoader(_GivenLoader):
    """A DataLoader as it is: its own batches (images, labels), order and augmentation; the last, smaller batch is dropped.

    It draws from random states of (seed, epoch, rank), which are put back after every batch, so an epoch repeats itself unless
    the DataLoader has a generator of its own. A resumed epoch fetches and drops what it has seen. `indices` are positions
    in the epoch: a DataLoader does not say which sample a batch holds. There are no extra views.

    Raises UserError where it has no length, holds no full batch, or would give every process the same batches.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        num_classes: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        try:
            batches = len(loader)
        except TypeError:
            raise UserError("the DataLoader has no length; give one over a data set with a length") from None
        if world_size > 1 and not hasattr(loader.sampler, "set_epoch"):
            raise UserError(
                f"the DataLoader would give each of the {world_size} processes the same batches; give its data set instead, or "
                "a DataLoader with a DistributedSampler"
            )
        self._loader, self._seed, self._rank = loader, seed, rank
        images, _ = next(self._raw(0), (torch.empty(0), None))
        if images.ndim != 4 or not len(images):
            raise UserError(f"the DataLoader gives images of shape {list(images.shape)}; give batches [B, C, H, W]")
        channels, height, width = images.shape[1:]
        super().__init__(num_classes, (channels, height, width), len(images), device)
        samples = None if loader.batch_size is None or loader.drop_last else len(loader.sampler)  # type: ignore[arg-type]
        self.steps_per_epoch = batches if samples is None else max(samples // self.batch_size, 1)

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; see `dat_engine.data.batch.Loader.epoch`."""
        if epoch < 0 or not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"cannot start at step {start_step} of epoch {epoch}, which has {self.steps_per_epoch}")
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        if (sampler := getattr(self._loader, "sampler", None)) is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        raw = self._raw(epoch)
        for step in range(self.steps_per_epoch):
            images, targets = next(raw, (torch.empty(0), torch.empty(0)))
            if len(images) != self.batch_size:
                raise DataError(
                    f"batch {step} of the DataLoader holds {len(images)} images and the first one {self.batch_size}; training "
                    "needs batches of one size, the last of an epoch excepted"
                )
            if step < start_step:
                continue
            if step > start_step:
                _check_batch(f"batch {step} of the DataLoader", images, targets, self.num_classes)
            images = _in_unit_range(images.to(self._device, non_blocking=True))
            yield Batch(
                images=images,
                originals=images,
                targets=targets.to(self._device, non_blocking=True),
                indices=torch.arange(len(images), device=self._device) + step * self.batch_size,
            )

    def _raw(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        key = np.random.SeedSequence(self._seed, spawn_key=(epoch, self._rank)).generate_state(1, np.uint64)
        with _seeded(int(key[0])):
            batches = iter(self._loader)
            state = _random_states()
        while True:
            with random_states_put_back():
                _set_random_states(state)
                batch = next(batches, None)
                state = _random_states()
            if batch is None:
                return
            if not isinstance(batch, tuple | list) or len(batch) < 2:
                raise UserError(
                    f"the DataLoader gives a {type(batch).__name__} per batch; it must give (images, labels)"
                )
            yield torch.as_tensor(batch[0]), _targets(torch.as_tensor(batch[1]))


class _SeededItems(Dataset[tuple[Tensor, Tensor]]):
    """Position in the epoch -> (views [V, C, H, W], target)."""

    def __init__(self, dataset: Dataset[Any], order: EpochSampler, epoch: int, indices: Tensor, views: int) -> None:
        self._dataset, self._order, self._epoch, self._indices, self._views = dataset, order, epoch, indices, views

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        items = []
        for view in range(self._views):
            with _seeded(self._order.sample_seed(self._epoch, position) + view):
                items.append(_item(self._dataset, int(self._indices[position])))
        return torch.stack([image for image, _ in items]), items[0][1]


def _item(dataset: Dataset[Any], index: int) -> tuple[Tensor, Tensor]:
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UserError(f"the data set's items are {type(item).__name__}s; they must be (image, label)")
    return image_tensor(item[0]), target_tensor(item[1])


def first_image(dataset: Any) -> Tensor:
    """The first image [C, H, W] of a map-style data set, whose augmentation changes no random state by it.

    Raises:
        UserError: it can only be iterated over, or its items are not (image, label).
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"{type(dataset).__name__} can only be iterated over; give a data set with a length and an item for each index, or "
            "a DataLoader with a length"
        )
    if not len(dataset):
        raise UserError("the data set holds no image; give at least one")
    with random_states_put_back():
        return _item(dataset, 0)[0]


def image_tensor(image: Any) -> Tensor:
    """A tensor [C, H, W], a PIL image or an array ([H, W], [H, W, C] or [C, H, W]) -> tensor [C, H, W] of its own values.

    Raises:
        UserError: something else.
    """
    pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if not isinstance(image, Tensor):
        if pixels.ndim == 2:
            pixels = pixels[None]
        elif pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4) and pixels.shape[0] not in (1, 3, 4):
            pixels = pixels.permute(2, 0, 1).contiguous()
    if pixels.ndim != 3:
        raise UserError(f"the data set's images have the shape {list(pixels.shape)}; give [C, H, W]")
    return pixels


def target_tensor(label: Any) -> Tensor:
    """A class number -> int64 []; a row of K probabilities -> float32 [K]."""
    return _targets(torch.as_tensor(label))


def _targets(targets: Tensor) -> Tensor:
    return targets.to(torch.float32) if targets.is_floating_point() else targets.to(torch.int64)


def _in_unit_range(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [0, 1]; floating point stays what it is, to be looked at when the first batch comes."""
    if images.dtype == torch.uint8:
        return unit_range(images)
    return images.to(torch.float32) if images.is_floating_point() else images


def _check_batch(name: str, images: Tensor, targets: Tensor, num_classes: int) -> None:
    """Raise DataError for images out of [0, 1] or class numbers that the model has not, while both are on the CPU still."""
    if targets.ndim == 1 and not targets.is_floating_point():
        lowest, highest = (int(bound) for bound in torch.aminmax(targets))
        if lowest < 0 or highest >= num_classes:
            raise DataError(
                f"{name} holds labels from {lowest} to {highest} and the model has {num_classes} classes; labels must lie in "
                f"0..{num_classes - 1}"
            )
    if images.is_floating_point():
        darkest, brightest = (float(bound) for bound in torch.aminmax(images))
        if not (darkest >= -UNIT_TOLERANCE and brightest <= 1 + UNIT_TOLERANCE):  # NaN fails too
            raise DataError(
                f"{name} holds images in [{darkest:.4g}, {brightest:.4g}]; all of them must lie in [0, 1]: scale the images of "
                "the whole data set in the same way"
            )


def _random_states() -> tuple[Any, Any, Tensor]:
    return random.getstate(), np.random.get_state(), torch.default_generator.get_state()


def _set_random_states(states: tuple[Any, Any, Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.default_generator.set_state(states[2])


@contextmanager
def random_states_put_back() -> Iterator[None]:
    """Within, Python, NumPy and torch (CPU) may draw; afterwards nobody can tell."""
    before = _random_states()
    try:
        yield
    finally:
        _set_random_states(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the random states of Python, NumPy and torch (CPU), and put them back afterwards."""
    with random_states_put_back():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed % 2**63)
        yield
