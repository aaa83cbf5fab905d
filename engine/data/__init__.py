"""Data: sources by name, splits in memory and in files, training loaders on one protocol, batches for evaluation."""

from engine.data.amplitude import mean_amplitude
from engine.data.arrays import DatasetDescription, ImageArrays, unit_range
from engine.data.augmentation import Augmentation, draw
from engine.data.batch import Batch, Loader
from engine.data.dali_loader import DaliLoader
from engine.data.dali_pipeline import dali_installed
from engine.data.errors import DataError
from engine.data.evaluation import batches
from engine.data.files import FileSettings, ImageFiles, ImageSource
from engine.data.opening import LoaderKind, free_bytes, open_loader, resident_bytes
from engine.data.prefetch import prefetched
from engine.data.resident import ResidentLoader
from engine.data.resized_crop import RandomResizedCrop
from engine.data.selection import hold_out, take
from engine.data.sources import SOURCES, describe, load
from engine.data.torchvision_loader import TorchvisionLoader

__all__ = [
    "SOURCES",
    "Augmentation",
    "Batch",
    "DaliLoader",
    "DataError",
    "DatasetDescription",
    "FileSettings",
    "ImageArrays",
    "ImageFiles",
    "ImageSource",
    "Loader",
    "LoaderKind",
    "RandomResizedCrop",
    "ResidentLoader",
    "TorchvisionLoader",
    "batches",
    "dali_installed",
    "describe",
    "draw",
    "free_bytes",
    "hold_out",
    "load",
    "mean_amplitude",
    "open_loader",
    "prefetched",
    "resident_bytes",
    "take",
    "unit_range",
]
