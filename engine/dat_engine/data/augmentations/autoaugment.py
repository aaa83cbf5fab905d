"""AutoAugment (Cubuk et al., CVPR 2019, arXiv 1805.09501): one of 25 learned pairs of operations for every image."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dat_engine.data.arrays import unit_range
from dat_engine.data.augmentations.autoaugment_policies import CIFAR10, IMAGENET, Pair, Part
from dat_engine.data.augmentations.interface import Draws, ImageAugmentation, as_levels
from dat_engine.data.augmentations.operations import Operation, apply_operations, check_colours

__all__ = ["AutoAugment"]

_POLICIES: dict[str, tuple[Pair, ...]] = {"cifar10": CIFAR10, "imagenet": IMAGENET}
_LEVELS = 10
_FURTHEST = 150 / 331  # translation at the highest level, as a share of the edge


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoAugment(ImageAugmentation):
    """For every image one pair of `policy`, uniformly; each of its two operations with its own probability, one after the
    other. Those with a direction (geometry, brightness, colour, contrast, sharpness) take it at random.

    Magnitudes and operations are those of torchvision.transforms.v2.AutoAugment: ten levels, nearest pixels, black outside.
    """

    policy: Literal["cifar10", "imagenet"] = "cifar10"

    def check(self, image_shape: tuple[int, int, int], batch_size: int) -> None:
        """Raise UserError for images that are neither grey nor of three colours."""
        check_colours("AutoAugment", image_shape)

    def draw(
        self, count: int, image_shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> Draws:
        """``operation`` int64 [B, 2] (see `Operation`) and ``magnitude`` float64 [B, 2], in the order of their use."""
        pairs = _POLICIES[self.policy]
        rows = [(part.operation, part.probability, *_magnitudes(part, image_shape)) for pair in pairs for part in pair]
        table = torch.tensor(rows, dtype=torch.float64).to(device, non_blocking=True).view(len(pairs), 2, 4)
        chosen = table[torch.randint(len(pairs), (count,), generator=generator, device=device)]
        chance, direction = torch.rand(2, count, 2, generator=generator, device=device)
        operation, probability, forward, backward = chosen.unbind(dim=2)
        return {
            "operation": torch.where(chance <= probability, operation, Operation.IDENTITY).to(torch.int64),
            "magnitude": torch.where(direction <= 0.5, backward, forward),
        }

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """See `ImageAugmentation.apply`."""
        levels = as_levels(images)
        for operation, magnitude in zip(draws["operation"].unbind(1), draws["magnitude"].unbind(1), strict=True):
            levels = apply_operations(levels, operation, magnitude)
        return unit_range(levels)

    def apply_to_sample(self, image: Tensor) -> Tensor:
        """See `ImageAugmentation.apply_to_sample`; this is torchvision's own."""
        from torchvision.transforms import v2  # slow to import, and the other loaders do without it

        augmented: Tensor = v2.AutoAugment(v2.AutoAugmentPolicy(self.policy))(image)
        return augmented


def _magnitudes(part: Part, image_shape: tuple[int, int, int]) -> tuple[float, float]:
    """The magnitude of an operation at its level, in its one direction and in the other (the same where it has none)."""
    _, height, width = image_shape

    def at_level(low: float, high: float) -> float:
        return float(torch.linspace(low, high, _LEVELS)[part.level])  # as torchvision rounds it

    match part.operation:
        case Operation.BRIGHTNESS | Operation.CONTRAST | Operation.COLOR | Operation.SHARPNESS:
            change = at_level(0.0, 0.9)
            return 1 + change, 1 - change
        case Operation.CORNER_SHEAR_X | Operation.CORNER_SHEAR_Y:
            amount = at_level(0.0, 0.3)
        case Operation.TRANSLATE_X:
            amount = int(at_level(0.0, _FURTHEST * width))
        case Operation.TRANSLATE_Y:
            amount = int(at_level(0.0, _FURTHEST * height))
        case Operation.ROTATE:
            amount = at_level(0.0, 30.0)
        case Operation.POSTERIZE:
            bits = 8 - round(part.level / 2.25)
            return bits, bits
        case Operation.SOLARIZE:
            threshold = 255 * at_level(1.0, 0.0)
            return threshold, threshold
        case _:
            return 0.0, 0.0
    return amount, -amount
