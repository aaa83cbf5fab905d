"""The images and labels that an evaluation takes, whatever they are held in, as one stream of checked batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from dat_engine.data import ImageArrays, ImageFiles, ImageSource, indexed_batches
from dat_engine.distributed import Processes
from dat_engine.errors import UserError

ImagesAndLabels: TypeAlias = tuple[Any, Any] | ImageSource | Dataset[Any] | DataLoader[Any]
"""(images, labels) as tensors or arrays, a data set of the engine or of torch, or a DataLoader."""

NumberedBatch: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Images [B, C, H, W] in [0, 1], targets int64 [B], both on the device, and the images' positions int64 [B] on the CPU."""


def numbered_batches(
    data: ImagesAndLabels, batch_size: int, device: torch.device, processes: Processes
) -> Iterator[NumberedBatch]:
    """Every image of this process's share of `data` once, in order; of a DataLoader in the batches and order that it gives.

    Raises:
        UserError: no images, a kind, shape, dtype or value range that is not a batch of labelled images, or a DataLoader
            with several processes.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1; got {batch_size}")
    if isinstance(data, ImageArrays | ImageFiles):
        share = torch.arange(processes.rank, len(data), processes.world_size)
        if len(share):
            own = data if processes.world_size == 1 else data.select(share)
            for images, targets, positions in indexed_batches(own, batch_size, device):
                yield images, targets, share[positions]
        return
    if isinstance(data, DataLoader):
        if processes.world_size > 1:
            raise UserError("a DataLoader cannot be shared out over processes; give its data set instead")
        yield from _checked(data, device, torch.arange(0))
        return
    dataset = _dataset(data)
    share = torch.arange(processes.rank, len(dataset), processes.world_size)  # type: ignore[arg-type]
    loader: DataLoader[Any] = DataLoader(Subset(dataset, share.tolist()), batch_size=batch_size)
    yield from _checked(loader, device, share)


def _dataset(data: Any) -> Dataset[Any]:
    if isinstance(data, tuple | list) and len(data) == 2:
        images, labels = (_tensor(part, name) for part, name in zip(data, ("images", "labels"), strict=True))
        if len(images) != len(labels):
            raise UserError(f"there are {len(images)} images and {len(labels)} labels; give one label for each image")
        return TensorDataset(images, labels)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | Tensor | np.ndarray):
        return data
    raise UserError(
        f"data is a {type(data).__name__}; give (images, labels) as tensors or arrays, a Dataset with a length, or a DataLoader"
    )


def _tensor(values: Any, name: str) -> Tensor:
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.ascontiguousarray(values))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be read as an array of numbers ({error}); give a tensor or array") from error
    if tensor.ndim == 0:
        raise UserError(f"{name} are a single number; give one entry for each image")
    return tensor


def _checked(loader: DataLoader[Any], device: torch.device, share: Tensor) -> Iterator[NumberedBatch]:
    done = 0
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise UserError(f"the data give a {type(batch).__name__} per batch; they must give images and labels")
        images, labels = (_tensor(part, name) for part, name in zip(batch, ("images", "labels"), strict=False))
        positions = torch.arange(done, done + len(images))
        done += len(images)
        check_images(images)
        if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
            raise UserError(
                f"labels are {_described(labels)} for {len(images)} images; give one class number (an integer) per image"
            )
        yield images.to(device), labels.to(device, torch.int64), share[positions] if len(share) else positions


def check_epsilon(epsilon: object) -> None:
    """Raise UserError unless `epsilon` is a number in (0, 1]."""
    if not isinstance(epsilon, int | float | np.number):
        raise UserError(f"epsilon is {epsilon!r}; give a number in (0, 1], as 8 / 255")
    if not 0 < epsilon <= 1:
        raise UserError(f"epsilon must lie in (0, 1], images being in [0, 1]; got {epsilon:g}")


def check_images(images: Tensor) -> None:
    """Raise UserError unless `images` are [B, C, H, W], floating point, in [0, 1]."""
    if not images.is_floating_point():
        hint = "; divide them by 255" if images.dtype == torch.uint8 else ""
        raise UserError(f"images are {_described(images)}; give floating-point images in [0, 1]{hint}")
    if images.ndim != 4:
        raise UserError(f"images are {_described(images)}; give [N, C, H, W]")
    lowest, highest = (float(bound) for bound in torch.aminmax(images)) if images.numel() else (0.0, 0.0)
    if not (lowest >= 0 and highest <= 1):  # NaN fails too
        raise UserError(
            f"images range from {lowest:.4g} to {highest:.4g}; give images in [0, 1] and let the model normalise them itself"
        )


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"
