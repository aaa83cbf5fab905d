"""Dual Adversarial Training and the methods it is compared with: what is trained, evaluated and reported."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dat import losses, models
    from dat.methods.dat.generator import AmplitudeGenerator

__all__ = ["AmplitudeGenerator", "losses", "models"]


def __getattr__(name: str) -> Any:
    # on first use: all three import torch, which costs the command line seconds that a list of recipes need not take
    if name == "AmplitudeGenerator":
        return importlib.import_module("dat.methods.dat.generator").AmplitudeGenerator
    if name in ("losses", "models"):
        return importlib.import_module(f"dat.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
