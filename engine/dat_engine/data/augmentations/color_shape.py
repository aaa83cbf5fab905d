"""ColorShape (Li and Spratling, ICLR 2023, arXiv 2301.09879): one operation on colour or shape for every image."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dat_engine.data.arrays import unit_range
from dat_engine.data.augmentations.interface import Draws, ImageAugmentation, as_levels
from dat_engine.data.augmentations.operations import Operation, apply_operations, check_colours

__all__ = ["ColorShape"]

# operation, its probability in each policy, range of its magnitude; shear and rotate stand for all directions
_POLICIES: dict[str, tuple[tuple[Operation, float, float, float], ...]] = {
    "color": (
        (Operation.COLOR, 0.125, 0.1, 1.9),
        (Operation.BRIGHTNESS, 0.125, 0.5, 1.9),
        (Operation.CONTRAST, 0.125, 0.5, 1.9),
        (Operation.SHARPNESS, 0.125, 0.1, 1.9),
        (Operation.AUTOCONTRAST, 0.125, 0.0, 0.0),
        (Operation.EQUALIZE, 0.125, 0.0, 0.0),
        (Operation.SHEAR_X, 0.125, 0.05, 0.15),
        (Operation.ROTATE, 0.125, 1, 11),
    ),
    "shape": (
        (Operation.COLOR, 0.08, 0.1, 1.9),
        (Operation.BRIGHTNESS, 0.08, 0.5, 1.9),
        (Operation.CONTRAST, 0.04, 0.5, 1.9),
        (Operation.SHARPNESS, 0.08, 0.1, 1.9),
        (Operation.AUTOCONTRAST, 0.04, 0.0, 0.0),
        (Operation.EQUALIZE, 0.08, 0.0, 0.0),
        (Operation.SHEAR_X, 0.3, 0.05, 0.35),
        (Operation.ROTATE, 0.3, 1, 31),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorShape(ImageAugmentation):
    """Of eight operations one, by the probabilities of `policy`, with a magnitude that is uniform over its range.

    Shear is along rows or columns, in radians, and either way; rotations are by whole degrees, the upper end excluded, either
    way. Both are about the centre, take the nearest pixel, and leave black what comes from outside. The paper uses "color" for
    CIFAR-10 and "shape" for SVHN. Colours are those of torchvision on tensors; the authors' own round as Pillow does.
    """

    policy: Literal["color", "shape"] = "color"

    def check(self, image_shape: tuple[int, int, int], batch_size: int) -> None:
        """Raise UserError for images that are neither grey nor of three colours."""
        check_colours("ColorShape", image_shape)

    def draw(
        self, count: int, image_shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> Draws:
        """``operation`` int64 [B] (see `Operation`) and ``magnitude`` float64 [B]."""
        uniform, strength, direction, axis = torch.rand(
            4, count, dtype=torch.float64, generator=generator, device=device
        )
        policy = torch.tensor(_POLICIES[self.policy], dtype=torch.float64)
        bounds, table = (part.to(device, non_blocking=True) for part in (policy[:-1, 1].cumsum(0), policy))
        chosen = torch.bucketize(uniform, bounds, right=True)
        number, _, lowest, highest = table[chosen].unbind(dim=1)
        operation = number.to(torch.int64)
        magnitude = lowest + (highest - lowest) * strength
        magnitude = torch.where(operation == Operation.ROTATE, magnitude.floor(), magnitude)
        sheared = operation == Operation.SHEAR_X
        magnitude = torch.where(sheared, magnitude.tan(), magnitude)
        signed = sheared | (operation == Operation.ROTATE)
        return {
            "operation": torch.where(sheared & (axis < 0.5), Operation.SHEAR_Y, operation),
            "magnitude": torch.where(signed & (direction < 0.5), -magnitude, magnitude),
        }

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """See `ImageAugmentation.apply`."""
        return unit_range(apply_operations(as_levels(images), draws["operation"], draws["magnitude"]))

    def apply_to_sample(self, image: Tensor) -> Tensor:
        """See `ImageAugmentation.apply_to_sample`; the operation is torchvision's own."""
        channels, height, width = image.shape
        draws = self.draw(1, (channels, height, width), torch.default_generator, image.device)
        return _by_torchvision(image, Operation(int(draws["operation"])), float(draws["magnitude"]))


def _by_torchvision(image: Tensor, operation: Operation, magnitude: float) -> Tensor:
    from torchvision.transforms.v2 import functional  # slow to import, and the other loaders do without it

    changed: Tensor
    match operation:
        case Operation.COLOR:
            changed = functional.adjust_saturation(image, magnitude)
        case Operation.BRIGHTNESS:
            changed = functional.adjust_brightness(image, magnitude)
        case Operation.CONTRAST:
            changed = functional.adjust_contrast(image, magnitude)
        case Operation.SHARPNESS:
            changed = functional.adjust_sharpness(image, magnitude)
        case Operation.AUTOCONTRAST:
            changed = functional.autocontrast(image)
        case Operation.EQUALIZE:
            changed = functional.equalize(image)
        case Operation.ROTATE:
            changed = functional.rotate(image, magnitude)
        case _:
            degrees = math.degrees(math.atan(magnitude))
            shear = [degrees, 0.0] if operation == Operation.SHEAR_X else [0.0, degrees]
            changed = functional.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=shear)
    return changed
