"""CIFAR-10 and CIFAR-100: the published settings, on the published networks and on ones without BatchNorm."""

from __future__ import annotations

from dat.recipes.families import CreateRecipe, published, without_batchnorm
from dat.recipes.recipe import DataSettings

CIFAR10 = DataSettings(name="cifar10")
CIFAR100 = DataSettings(name="cifar100")
_RESNET = published(CIFAR10, "resnet18")

RECIPES: dict[str, CreateRecipe] = {
    "cifar10-resnet18": _RESNET,
    "cifar100-resnet18": published(CIFAR100, "resnet18"),
    "cifar10-wrn34-10": published(CIFAR10, "wrn34-10"),
    "cifar100-wrn34-10": published(CIFAR100, "wrn34-10"),
    "cifar10-wrn28-10": published(CIFAR10, "wrn28-10"),
    "cifar100-wrn28-10": published(CIFAR100, "wrn28-10"),
    "cifar10-vit": without_batchnorm(CIFAR10, "vit_tiny_patch4", like=_RESNET, learning_rate=5e-4),
    "cifar10-convnext": without_batchnorm(CIFAR10, "convnext_atto_patch2", like=_RESNET, learning_rate=1e-3),
}
