"""ImageNet and folders of pictures, at 224 pixels."""

from __future__ import annotations

from dat.recipes.families import CreateRecipe, large_images, without_batchnorm
from dat.recipes.recipe import DataSettings

IMAGENET = DataSettings(name="imagenet", crop="resized", validation=10_000)
_RESNET = large_images(IMAGENET)

RECIPES: dict[str, CreateRecipe] = {
    "imagenet-resnet50": _RESNET,
    "imagenet-vit": without_batchnorm(IMAGENET, "vit_b_16", like=_RESNET, learning_rate=5e-4),
    "imagenet-convnext": without_batchnorm(IMAGENET, "convnext_tiny", like=_RESNET, learning_rate=1e-3),
    "imagefolder": large_images(DataSettings(name="imagefolder", crop="resized", validation=0)),
}
