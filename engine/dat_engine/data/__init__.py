"""Data: sources by name, splits in memory and in files, training loaders on one protocol, batches for evaluation."""

from dat_engine.data.arrays import DatasetDescription, ImageArrays, unit_range
from dat_engine.data.augmentations.autoaugment import AutoAugment
from dat_engine.data.augmentations.crop import Augmentation, RandomResizedCrop, draw_augmentation
from dat_engine.data.augmentations.cutmix import CutMix
from dat_engine.data.augmentations.cutout import Cutout
from dat_engine.data.augmentations.idbh import IDBH
from dat_engine.data.augmentations.random_erasing import RandomErasing
from dat_engine.data.augmentations.registry import AUGMENTATIONS, named_augmentation
from dat_engine.data.batch import Batch, Loader
from dat_engine.data.datasets.registry import SOURCES, describe, load, needs_files
from dat_engine.data.errors import DataError
from dat_engine.data.evaluation import batches, indexed_batches
from dat_engine.data.files.files import FileSettings, ImageFiles, ImageSource
from dat_engine.data.loaders.build import LoaderKind, free_bytes, open_loader, resident_bytes
from dat_engine.data.loaders.dali import DaliLoader
from dat_engine.data.loaders.dali_pipeline import dali_installed
from dat_engine.data.loaders.prefetch import prefetched
from dat_engine.data.loaders.resident import ResidentLoader
from dat_engine.data.loaders.torchvision import TorchvisionLoader
from dat_engine.data.selection import hold_out, take

__all__ = [
    "AUGMENTATIONS",
    "IDBH",
    "SOURCES",
    "Augmentation",
    "AutoAugment",
    "Batch",
    "CutMix",
    "Cutout",
    "DaliLoader",
    "DataError",
    "DatasetDescription",
    "FileSettings",
    "ImageArrays",
    "ImageFiles",
    "ImageSource",
    "Loader",
    "LoaderKind",
    "RandomErasing",
    "RandomResizedCrop",
    "ResidentLoader",
    "TorchvisionLoader",
    "batches",
    "dali_installed",
    "describe",
    "draw_augmentation",
    "free_bytes",
    "hold_out",
    "indexed_batches",
    "load",
    "named_augmentation",
    "needs_files",
    "open_loader",
    "prefetched",
    "resident_bytes",
    "take",
    "unit_range",
]
