"""Checks of the arguments that several operations share. They raise TypeError or ValueError: what came, what is needed.

Only what the host knows is checked here (types, dtypes, shapes, devices), so the checks trace under torch.compile.
Values of CPU tensors are checked where the operation runs; values on a GPU are not, for reading one would wait for
the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER_OFFSETS = (torch.int32, torch.int64)


def check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a tensor")


def check_floating(name: str, value: Tensor) -> None:
    if value.dtype not in FLOATING:
        raise TypeError(
            f"{name} has dtype {value.dtype}; it must be floating (convert 8-bit images with .float() / 255)"
        )


def check_images(name: str, value: Tensor) -> None:
    """A floating [B, C, H, W] tensor with at least one pixel and channel."""
    check_tensor(name, value)
    check_floating(name, value)
    if value.dim() != 4 or 0 in value.shape[1:]:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be [B, C, H, W] with C, H and W at least 1")


def check_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Same shape and device as `other`."""
    check_tensor(name, value)
    if value.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} and {other_name} {tuple(other.shape)}; they must be equal"
        )
    check_device(name, value, other_name, other)


def check_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device} and {other_name} on {other.device}; move them to one device")


def check_same_dtype(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.dtype != other.dtype:
        raise TypeError(f"{name} has dtype {value.dtype} and {other_name} {other.dtype}; they must be equal")


def check_crop_and_flip(
    crop_offsets: Tensor | None, flip: Tensor | None, batch: int, like_name: str, like: Tensor
) -> None:
    """crop_offsets: int32 or int64 [B, 2]; flip: bool [B]; either may be None."""
    if crop_offsets is not None:
        check_tensor("crop_offsets", crop_offsets)
        if crop_offsets.dtype not in INTEGER_OFFSETS:
            raise TypeError(f"crop_offsets has dtype {crop_offsets.dtype}; it must be torch.int32 or torch.int64")
        if tuple(crop_offsets.shape) != (batch, 2):
            raise ValueError(
                f"crop_offsets has shape {tuple(crop_offsets.shape)}; it must be ({batch}, 2): (dy, dx) per sample"
            )
        check_device("crop_offsets", crop_offsets, like_name, like)
    if flip is not None:
        check_tensor("flip", flip)
        if flip.dtype != torch.bool:
            raise TypeError(f"flip has dtype {flip.dtype}; it must be torch.bool")
        if tuple(flip.shape) != (batch,):
            raise ValueError(f"flip has shape {tuple(flip.shape)}; it must be ({batch},), one per sample")
        check_device("flip", flip, like_name, like)


def split_per_sample(name: str, value: float | Tensor, like: Tensor) -> tuple[float, Tensor | None]:
    """A number of at least 0 as (float, None), or as (0.0, float32 tensor): 0-dim, or [B] with one per sample of like.

    The values of a tensor are not read here; `check_values` does that where the operation runs.
    """
    if isinstance(value, Tensor):
        if value.dtype != torch.float32:
            raise TypeError(f"{name} has dtype {value.dtype}; it must be torch.float32, or a Python float")
        batch = like.shape[0]
        if tuple(value.shape) not in ((), (batch,)):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; give a float, a 0-dim tensor or one of shape ({batch},), "
                "one per sample"
            )
        check_device(name, value, "images", like)
        return 0.0, value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a {type(value).__name__}; give a float or a torch.float32 tensor")
    if not value >= 0:
        raise ValueError(f"{name} is {value}; it must be at least 0")
    return float(value), None


def check_values(name: str, value: Tensor) -> None:
    """On the CPU: no value is negative or NaN. On a GPU nothing is read."""
    if value.device.type != "cpu":
        return
    lowest = value.min().item()  # NaN where any value is
    if not lowest >= 0:
        raise ValueError(f"the lowest value of {name} is {lowest:g}; every one must be at least 0")


def split_counter(name: str, value: int | Tensor, like: Tensor) -> tuple[int, Tensor | None]:
    """A seed or offset as (int, None) or (0, 0-dim int64 tensor on like's device)."""
    if isinstance(value, Tensor):
        if value.dim() != 0 or value.dtype != torch.int64:
            raise TypeError(
                f"{name} is a {value.dtype} tensor of shape {tuple(value.shape)}; "
                "give an int or a 0-dim torch.int64 tensor"
            )
        check_device(name, value, "images", like)
        return 0, value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a {type(value).__name__}; give an int or a 0-dim torch.int64 tensor")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {value}; it must fit a signed 64-bit integer")
    return value, None
