"""A caller's own images, in whatever they are held, as a training loader and as what an evaluation takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dat.evaluation.images import ImagesAndLabels
from dat_engine.data import (
    Augmentation,
    ImageArrays,
    ImageFiles,
    Loader,
    RandomResizedCrop,
    named_augmentation,
    open_loader,
    unit_range,
)
from dat_engine.data.loaders.given import (
    BatchesLoader,
    DatasetLoader,
    TensorLoader,
    first_image,
    image_tensor,
    random_states_put_back,
    target_tensor,
)
from dat_engine.data_kinds import AugmentationName
from dat_engine.distributed import Processes
from dat_engine.errors import UserError
from dat_engine.step.first_batch import check_images, check_soft_labels

OwnData = ImagesAndLabels
NOT_AUGMENTED = Augmentation(padding=0, flip=False)


def own_loader(
    data: OwnData,
    *,
    num_classes: int,
    batch_size: int,
    augmentation: Augmentation | RandomResizedCrop,
    workers: int,
    extra_views: int,
    extra_augmentation: str | None,
    seed: int,
    device: torch.device,
    processes: Processes,
) -> Loader:
    """The training loader that serves `data`; see `dat.Trainer` for what they may be.

    Raises:
        UserError: something else, too few images, or an augmentation or extra views that this kind of data cannot have.
    """
    if isinstance(data, ImageArrays | ImageFiles):
        return open_loader(
            "auto",
            data,
            batch_size=batch_size,
            augmentation=augmentation,
            seed=seed,
            device=device,
            rank=processes.rank,
            world_size=processes.world_size,
            workers=workers or None,
            extra_views=extra_views,
            extra_augmentation=None
            if extra_augmentation is None
            else named_augmentation(extra_augmentation, augmentation, data_set="own", image_shape=data.image_shape),
        )
    shared: dict[str, Any] = {
        "num_classes": num_classes,
        "seed": seed,
        "device": device,
        "rank": processes.rank,
        "world_size": processes.world_size,
    }
    if isinstance(data, tuple | list):
        images, targets = _pair(data)
        if images.dtype == torch.uint8 and targets.ndim == 1:
            arrays = ImageArrays(images=images, targets=targets, class_names=_class_names(targets, num_classes))
            return own_loader(
                arrays,
                num_classes=num_classes,
                batch_size=batch_size,
                augmentation=augmentation,
                workers=workers,
                extra_views=extra_views,
                extra_augmentation=extra_augmentation,
                seed=seed,
                device=device,
                processes=processes,
            )
        _refuse_augmentation(augmentation, data)
        if extra_views:
            raise UserError(
                f"the method needs {extra_views} further views of each image, augmented anew, and floating-point images or "
                "soft labels are not augmented here; give uint8 images with class numbers, or a data set that augments itself"
            )
        _check_held(images, targets, num_classes)
        return TensorLoader(images, targets, batch_size=batch_size, **shared)
    if isinstance(data, DataLoader):
        _refuse_augmentation(augmentation, data)
        if extra_views:
            raise UserError(
                f"the method needs {extra_views} further views of each image, which a DataLoader cannot give; give its data set"
            )
        return BatchesLoader(data, **shared)
    _refuse_augmentation(augmentation, data)
    return DatasetLoader(data, batch_size=batch_size, workers=workers, extra_views=extra_views, **shared)


def own_augmentation(data: OwnData, name: AugmentationName, method: str) -> Augmentation | RandomResizedCrop:
    """What `method`, whose paper names an augmentation, does to `data` where the caller names none.

    Raises:
        UserError: data that are not augmented here.
    """
    if name in ("standard", "none"):
        return NOT_AUGMENTED
    if (found := _not_augmented(data)) is not None:
        raise UserError(
            f"{method} augments its images by {name}, which takes uint8 images with class numbers, and these are {found}; give "
            "uint8, or, where the data augment themselves, augmentation=Augmentation(padding=0, flip=False)"
        )
    return named_augmentation(name, NOT_AUGMENTED, data_set="own", image_shape=image_shape_of(data))


def own_validation(data: OwnData | None, num_classes: int) -> ImagesAndLabels | None:
    """`data` as `dat.evaluate` takes them: images in [0, 1], and of soft labels the most probable class.

    What is in memory is looked at whole, so that it is not the end of the first epoch that finds a wrong label.

    Raises:
        UserError: something that cannot be.
    """
    if data is None or isinstance(data, ImageArrays | ImageFiles | DataLoader):
        return data
    if isinstance(data, tuple | list):
        images, targets = _pair(data)
        hard = targets if targets.ndim == 1 else targets.argmax(dim=1)
        try:
            _check_held(images, hard, num_classes)
        except UserError as error:
            raise UserError(f"validation: {error}") from error
        return unit_range(images) if images.dtype == torch.uint8 else images, hard
    return _UnitRange(data)


def image_shape_of(data: OwnData) -> tuple[int, int, int]:
    """(C, H, W) of the images in `data`, looked up without a loader.

    Raises:
        UserError: no images, or none of that shape.
    """
    if isinstance(data, ImageArrays | ImageFiles):
        return data.image_shape
    if isinstance(data, tuple | list):
        image = _pair(data)[0][0]
    elif isinstance(data, DataLoader):
        with random_states_put_back():
            batch = next(iter(data), None)
        if not isinstance(batch, tuple | list) or not len(batch[0]):
            raise UserError("the DataLoader gives no batch (images, labels); give one that holds at least one")
        image = torch.as_tensor(batch[0])[0]
    elif isinstance(data, Dataset) or (
        hasattr(data, "__getitem__") and not isinstance(data, str | Tensor | np.ndarray)
    ):
        image = first_image(data)
    else:
        raise UserError(
            f"data is a {type(data).__name__}; give (images, labels) as tensors or arrays, a data set with a length, or a "
            "DataLoader"
        )
    channels, height, width = image.shape
    return channels, height, width


def _pair(data: tuple[Any, Any] | list[Any]) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] and targets, int64 [N] or float32 [N, K], as tensors."""
    if len(data) != 2:
        raise UserError(f"data is a {type(data).__name__} of {len(data)}; give the two of (images, labels)")
    images, labels = (
        values if isinstance(values, Tensor) else torch.as_tensor(np.ascontiguousarray(values)) for values in data
    )
    if images.ndim != 4 or labels.ndim not in (1, 2) or len(images) != len(labels) or not len(images):
        raise UserError(
            f"images have the shape {list(images.shape)} and labels {list(labels.shape)}; give [N, C, H, W] with class numbers "
            "[N] or soft labels [N, K]"
        )
    return images, target_tensor(labels)


def _check_held(images: Tensor, targets: Tensor, num_classes: int) -> None:
    """Look at all of what is in memory: the first batch alone would leave a wrong image or label to a later step."""
    if images.dtype != torch.uint8:
        check_images("images", images)
    if targets.ndim == 2:
        check_soft_labels("soft labels", targets, len(images), num_classes)
    elif not targets.is_floating_point():
        _class_names(targets, num_classes)


def _class_names(targets: Tensor, num_classes: int) -> tuple[str, ...]:
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= num_classes:
        raise UserError(
            f"labels run from {lowest} to {highest} and the network tells {num_classes} classes apart; labels must lie in "
            f"0..{num_classes - 1}"
        )
    return tuple(str(number) for number in range(num_classes))


def _not_augmented(data: OwnData) -> str | None:
    """What `data` are, where they are none that are augmented here."""
    if isinstance(data, ImageArrays | ImageFiles):
        return None
    if isinstance(data, tuple | list):
        images, targets = _pair(data)
        return None if images.dtype == torch.uint8 and targets.ndim == 1 else "floating-point images or soft labels"
    return "a DataLoader" if isinstance(data, DataLoader) else "a data set"


def _refuse_augmentation(augmentation: Augmentation | RandomResizedCrop, data: OwnData) -> None:
    if augmentation != NOT_AUGMENTED:
        raise UserError(
            f"augmentation is for uint8 images with class numbers, and these are {_not_augmented(data)}; augment in the data "
            "set, or give uint8"
        )


class _UnitRange(Dataset[tuple[Tensor, Tensor]]):
    """A data set's items as `dat.evaluate` takes them."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self._dataset[index]
        image, target = image_tensor(item[0]), target_tensor(item[1])
        return unit_range(
            image
        ) if image.dtype == torch.uint8 else image, target if not target.ndim else target.argmax()
