"""The choices of `dat_engine.data` that recipes name; apart from it, because listing recipes shall not import torch."""

from typing import Literal

LoaderKind = Literal["auto", "resident", "dali", "torchvision"]
OnDamaged = Literal["skip", "fatal"]
AugmentationName = Literal["standard", "none", "cutout", "cutmix", "autoaugment", "idbh"]
