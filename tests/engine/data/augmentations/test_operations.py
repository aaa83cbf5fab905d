"""Every operation at every magnitude against torchvision's own on uint8 images: equal to the bit.

One exception: where an edge is not a power of two, a source halfway between two pixels is rounded to the one or the other.
"""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dat_engine.data.augmentations.operations import Operation, apply_operations
from tests.engine.data.augmentations.pictures_of_levels import images

AUTOAUGMENT = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
NAMES = {
    Operation.BRIGHTNESS: "Brightness",
    Operation.CONTRAST: "Contrast",
    Operation.POSTERIZE: "Posterize",
    Operation.SOLARIZE: "Solarize",
    Operation.INVERT: "Invert",
    Operation.AUTOCONTRAST: "AutoContrast",
    Operation.EQUALIZE: "Equalize",
    Operation.COLOR: "Color",
    Operation.SHARPNESS: "Sharpness",
    Operation.CORNER_SHEAR_X: "ShearX",
    Operation.CORNER_SHEAR_Y: "ShearY",
    Operation.TRANSLATE_X: "TranslateX",
    Operation.TRANSLATE_Y: "TranslateY",
    Operation.ROTATE: "Rotate",
}
FACTORS = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR, Operation.SHARPNESS)
HALFWAY = (Operation.CORNER_SHEAR_X, Operation.CORNER_SHEAR_Y, Operation.ROTATE)
SHAPES = [(3, 32, 32), (1, 16, 16), (3, 14, 21)]


def changed(pictures, operation, magnitude):
    count = len(pictures)
    levels = apply_operations(
        pictures.float(), torch.full((count,), operation), torch.full((count,), magnitude, dtype=torch.float64)
    )
    assert torch.equal(levels, levels.round()) and levels.min() >= 0 and levels.max() <= 255
    return levels.to(torch.uint8)


def magnitudes_of_autoaugment(operation, shape):
    """(torchvision's magnitude, ours) of every level in both directions."""
    levels, signed = AUTOAUGMENT._AUGMENTATION_SPACE[NAMES[operation]]
    values = levels(10, *shape[1:])
    for value in [0.0] if values is None else values.tolist():
        for theirs in (value, -value) if signed else (value,):
            ours = float(theirs)
            if operation in FACTORS:
                ours = 1 + theirs
            elif operation is Operation.SOLARIZE:
                ours = 255 * theirs
            elif operation in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y):
                ours = float(int(theirs))
            yield theirs, ours


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", NAMES, ids=lambda operation: operation.name)
def test_autoaugments_operations_are_torchvisions(operation, shape):
    pictures = images(6, shape)
    for theirs, ours in magnitudes_of_autoaugment(operation, shape):
        expected = [
            AUTOAUGMENT._apply_image_or_video_transform(each, NAMES[operation], theirs, "nearest", AUTOAUGMENT._fill)
            for each in pictures
        ]
        different = (changed(pictures, operation, ours) != torch.stack(expected)).float().mean()
        assert different <= (0.05 if operation in HALFWAY and shape == (3, 14, 21) else 0), (theirs, ours)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tangent", [0.05, -0.15, 0.36])
def test_shears_about_the_centre_are_torchvisions(shape, tangent):
    pictures = images(6, shape)
    degrees = torch.tensor(tangent, dtype=torch.float64).atan().rad2deg().item()
    for operation, shear in ((Operation.SHEAR_X, [degrees, 0.0]), (Operation.SHEAR_Y, [0.0, degrees])):
        expected = functional.affine(pictures, angle=0.0, translate=[0, 0], scale=1.0, shear=shear)
        assert torch.equal(changed(pictures, operation, tangent), expected)


@pytest.mark.parametrize("operation", FACTORS, ids=lambda operation: operation.name)
def test_factors_that_no_level_has_are_torchvisions(operation):
    adjust = {
        Operation.BRIGHTNESS: functional.adjust_brightness,
        Operation.CONTRAST: functional.adjust_contrast,
        Operation.COLOR: functional.adjust_saturation,
        Operation.SHARPNESS: functional.adjust_sharpness,
    }[operation]
    pictures = images(8, (3, 32, 32), seed=1)
    for factor in torch.linspace(0.1, 1.9, 23, dtype=torch.float64).tolist():
        assert torch.equal(changed(pictures, operation, factor), adjust(pictures, factor)), factor


def test_every_image_of_a_batch_has_its_own_operation_and_magnitude():
    operations = torch.tensor(list(Operation)).repeat(2)
    magnitudes = torch.linspace(0.2, 9.0, len(operations), dtype=torch.float64)
    levels = images(len(operations), (3, 16, 16), seed=2).float()
    together = apply_operations(levels, operations, magnitudes)
    for one in range(len(operations)):
        alone = apply_operations(levels[one : one + 1], operations[one : one + 1], magnitudes[one : one + 1])
        assert torch.equal(together[one], alone[0]), Operation(int(operations[one])).name
    unchanged = [one for one in range(len(operations)) if torch.equal(together[one], levels[one])]
    # besides the identity only what leaves an image as it is by its nature: seven bits and more, a flat image, thresholds
    assert Operation.IDENTITY in operations[unchanged] and len(unchanged) < 6, operations[unchanged]


def test_images_too_small_to_be_sharpened_stay_as_they_are():
    pictures = images(4, (3, 2, 5))
    assert torch.equal(changed(pictures, Operation.SHARPNESS, 1.9), pictures)
