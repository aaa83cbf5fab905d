"""The policies that AutoAugment learned, as the paper's appendix lists them: pairs of (operation, probability, level)."""

from typing import NamedTuple

from dat_engine.data.augmentations.operations import Operation

__all__ = ["CIFAR10", "IMAGENET", "Pair", "Part"]


class Part(NamedTuple):
    """One operation of a pair."""

    operation: Operation
    probability: float
    level: int = 0
    """0..9; without meaning for operations that have no magnitude."""


Pair = tuple[Part, Part]

CIFAR10: tuple[Pair, ...] = (
    (Part(Operation.INVERT, 0.1), Part(Operation.CONTRAST, 0.2, 6)),
    (Part(Operation.ROTATE, 0.7, 2), Part(Operation.TRANSLATE_X, 0.3, 9)),
    (Part(Operation.SHARPNESS, 0.8, 1), Part(Operation.SHARPNESS, 0.9, 3)),
    (Part(Operation.CORNER_SHEAR_Y, 0.5, 8), Part(Operation.TRANSLATE_Y, 0.7, 9)),
    (Part(Operation.AUTOCONTRAST, 0.5), Part(Operation.EQUALIZE, 0.9)),
    (Part(Operation.CORNER_SHEAR_Y, 0.2, 7), Part(Operation.POSTERIZE, 0.3, 7)),
    (Part(Operation.COLOR, 0.4, 3), Part(Operation.BRIGHTNESS, 0.6, 7)),
    (Part(Operation.SHARPNESS, 0.3, 9), Part(Operation.BRIGHTNESS, 0.7, 9)),
    (Part(Operation.EQUALIZE, 0.6), Part(Operation.EQUALIZE, 0.5)),
    (Part(Operation.CONTRAST, 0.6, 7), Part(Operation.SHARPNESS, 0.6, 5)),
    (Part(Operation.COLOR, 0.7, 7), Part(Operation.TRANSLATE_X, 0.5, 8)),
    (Part(Operation.EQUALIZE, 0.3), Part(Operation.AUTOCONTRAST, 0.4)),
    (Part(Operation.TRANSLATE_Y, 0.4, 3), Part(Operation.SHARPNESS, 0.2, 6)),
    (Part(Operation.BRIGHTNESS, 0.9, 6), Part(Operation.COLOR, 0.2, 8)),
    (Part(Operation.SOLARIZE, 0.5, 2), Part(Operation.INVERT, 0.0)),
    (Part(Operation.EQUALIZE, 0.2), Part(Operation.AUTOCONTRAST, 0.6)),
    (Part(Operation.EQUALIZE, 0.2), Part(Operation.EQUALIZE, 0.6)),
    (Part(Operation.COLOR, 0.9, 9), Part(Operation.EQUALIZE, 0.6)),
    (Part(Operation.AUTOCONTRAST, 0.8), Part(Operation.SOLARIZE, 0.2, 8)),
    (Part(Operation.BRIGHTNESS, 0.1, 3), Part(Operation.COLOR, 0.7, 0)),
    (Part(Operation.SOLARIZE, 0.4, 5), Part(Operation.AUTOCONTRAST, 0.9)),
    (Part(Operation.TRANSLATE_Y, 0.9, 9), Part(Operation.TRANSLATE_Y, 0.7, 9)),
    (Part(Operation.AUTOCONTRAST, 0.9), Part(Operation.SOLARIZE, 0.8, 3)),
    (Part(Operation.EQUALIZE, 0.8), Part(Operation.INVERT, 0.1)),
    (Part(Operation.TRANSLATE_Y, 0.7, 9), Part(Operation.AUTOCONTRAST, 0.9)),
)
IMAGENET: tuple[Pair, ...] = (
    (Part(Operation.POSTERIZE, 0.4, 8), Part(Operation.ROTATE, 0.6, 9)),
    (Part(Operation.SOLARIZE, 0.6, 5), Part(Operation.AUTOCONTRAST, 0.6)),
    (Part(Operation.EQUALIZE, 0.8), Part(Operation.EQUALIZE, 0.6)),
    (Part(Operation.POSTERIZE, 0.6, 7), Part(Operation.POSTERIZE, 0.6, 6)),
    (Part(Operation.EQUALIZE, 0.4), Part(Operation.SOLARIZE, 0.2, 4)),
    (Part(Operation.EQUALIZE, 0.4), Part(Operation.ROTATE, 0.8, 8)),
    (Part(Operation.SOLARIZE, 0.6, 3), Part(Operation.EQUALIZE, 0.6)),
    (Part(Operation.POSTERIZE, 0.8, 5), Part(Operation.EQUALIZE, 1.0)),
    (Part(Operation.ROTATE, 0.2, 3), Part(Operation.SOLARIZE, 0.6, 8)),
    (Part(Operation.EQUALIZE, 0.6), Part(Operation.POSTERIZE, 0.4, 6)),
    (Part(Operation.ROTATE, 0.8, 8), Part(Operation.COLOR, 0.4, 0)),
    (Part(Operation.ROTATE, 0.4, 9), Part(Operation.EQUALIZE, 0.6)),
    (Part(Operation.EQUALIZE, 0.0), Part(Operation.EQUALIZE, 0.8)),
    (Part(Operation.INVERT, 0.6), Part(Operation.EQUALIZE, 1.0)),
    (Part(Operation.COLOR, 0.6, 4), Part(Operation.CONTRAST, 1.0, 8)),
    (Part(Operation.ROTATE, 0.8, 8), Part(Operation.COLOR, 1.0, 2)),
    (Part(Operation.COLOR, 0.8, 8), Part(Operation.SOLARIZE, 0.8, 7)),
    (Part(Operation.SHARPNESS, 0.4, 7), Part(Operation.INVERT, 0.6)),
    (Part(Operation.CORNER_SHEAR_X, 0.6, 5), Part(Operation.EQUALIZE, 1.0)),
    (Part(Operation.COLOR, 0.4, 0), Part(Operation.EQUALIZE, 0.6)),
    (Part(Operation.EQUALIZE, 0.4), Part(Operation.SOLARIZE, 0.2, 4)),
    (Part(Operation.SOLARIZE, 0.6, 5), Part(Operation.AUTOCONTRAST, 0.6)),
    (Part(Operation.INVERT, 0.6), Part(Operation.EQUALIZE, 1.0)),
    (Part(Operation.COLOR, 0.6, 4), Part(Operation.CONTRAST, 1.0, 8)),
    (Part(Operation.EQUALIZE, 0.8), Part(Operation.EQUALIZE, 0.6)),
)
