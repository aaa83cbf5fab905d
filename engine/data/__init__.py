"""Data: sources by name, splits in memory, training loaders on one protocol, batches for evaluation."""

from engine.data.arrays import DatasetDescription, ImageArrays, hold_out, mean_amplitude, take, unit_range
from engine.data.augmentation import Augmentation, draw
from engine.data.batch import Batch, Loader
from engine.data.errors import DataError
from engine.data.evaluation import batches
from engine.data.prefetch import prefetched
from engine.data.resident import ResidentLoader
from engine.data.sources import SOURCES, describe, load
from engine.data.torchvision_loader import TorchvisionLoader

__all__ = [
    "SOURCES",
    "Augmentation",
    "Batch",
    "DataError",
    "DatasetDescription",
    "ImageArrays",
    "Loader",
    "ResidentLoader",
    "TorchvisionLoader",
    "batches",
    "describe",
    "draw",
    "hold_out",
    "load",
    "mean_amplitude",
    "prefetched",
    "take",
    "unit_range",
]
