"""The augmentations by name. A new one is a file with an `ImageAugmentation`, a line in `AUGMENTATIONS`, and its name in
`AugmentationName`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dat_engine.data.augmentations.autoaugment import AutoAugment
from dat_engine.data.augmentations.crop import Augmentation, RandomResizedCrop
from dat_engine.data.augmentations.cutmix import CutMix
from dat_engine.data.augmentations.cutout import Cutout
from dat_engine.data.augmentations.idbh import IDBH
from dat_engine.errors import unknown_name

__all__ = ["AUGMENTATIONS", "ImageKind", "named_augmentation"]

_SMALL = 64
"""Edge up to which images are taken for CIFAR's kind, whose AutoAugment policy they get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageKind:
    """What an augmentation may depend on."""

    data_set: str
    image_shape: tuple[int, int, int]


Crop = Augmentation | RandomResizedCrop
Create = Callable[[Crop, ImageKind], Crop]
"""The data set's own crop and flip, and its images -> what is done to them under that name."""


def _cutout(crop: Crop, images: ImageKind) -> Crop:
    return replace(crop, then=Cutout(share=1 / 4 if images.data_set == "cifar100" else 1 / 2))


def _autoaugment(crop: Crop, images: ImageKind) -> Crop:
    return replace(crop, then=AutoAugment(policy="cifar10" if max(images.image_shape[1:]) <= _SMALL else "imagenet"))


def _idbh(crop: Crop, images: ImageKind) -> Crop:
    if isinstance(crop, RandomResizedCrop):
        return replace(crop, then=IDBH(crop_shift=None))
    return replace(crop, padding=0, then=IDBH())


AUGMENTATIONS: dict[str, Create] = {
    "standard": lambda crop, images: crop,
    "none": lambda crop, images: Augmentation(padding=0, flip=False),
    "cutout": _cutout,
    "cutmix": lambda crop, images: replace(crop, then=CutMix()),
    "autoaugment": _autoaugment,
    "idbh": _idbh,
}


def named_augmentation(name: str, crop: Crop, *, data_set: str, image_shape: tuple[int, int, int]) -> Crop:
    """The augmentation called `name`, of images that are cropped and flipped as `crop` says.

    data_set: its name, where sizes were published for it; image_shape: (C, H, W).

    Raises UserError for an unknown name.
    """
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name](crop, ImageKind(data_set=data_set, image_shape=image_shape))
