"""The augmentations that a recipe makes its views of images with."""

from __future__ import annotations

from dat.recipes import Recipe
from dat_engine.data import Augmentation, CutMix, RandomResizedCrop, named_augmentation
from dat_engine.errors import UserError
from dat_engine.step.method import Method


def augmentation(recipe: Recipe) -> Augmentation | RandomResizedCrop:
    """Crop and flip of the recipe's training images; what is done besides, `view_augmentations` says."""
    if recipe.data.augmentation == "none":
        return Augmentation(padding=0, flip=False)
    if recipe.data.crop == "resized":
        return RandomResizedCrop(flip=recipe.data.flip)
    return Augmentation(padding=recipe.data.padding, flip=recipe.data.flip)


def view_augmentations(
    recipe: Recipe, method: Method, image_shape: tuple[int, int, int]
) -> tuple[Augmentation | RandomResizedCrop, Augmentation | RandomResizedCrop]:
    """What is done to the first view of the recipe's training images, and to the method's extra ones."""
    first = recipe.data.augmentation
    extra = first if method.extra_augmentation is None else method.extra_augmentation
    one, other = (
        named_augmentation(name, augmentation(recipe), data_set=recipe.data.name, image_shape=image_shape)
        for name in (first, extra)
    )
    return one, other


def check_labels(augmentation: Augmentation | RandomResizedCrop, method: Method, name: str) -> None:
    """Refuse mixed labels where the method, called `name`, needs one class for each image."""
    if isinstance(augmentation.then, CutMix) and not method.takes_soft_labels:
        raise UserError(
            f"the augmentation cutmix mixes labels, and {name} needs one class for each image; choose another augmentation, or "
            "a method that takes soft labels"
        )
