"""Dual Adversarial Training and the methods it is compared with: what is trained, evaluated and reported."""

from dat import losses, models
from dat.methods.dat.generator import AmplitudeGenerator

__all__ = ["AmplitudeGenerator", "losses", "models"]
