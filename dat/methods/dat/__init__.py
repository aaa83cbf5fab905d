"""Dual Adversarial Training: the method and its amplitude generator."""

from dat.methods.dat.generator import AmplitudeGenerator
from dat.methods.dat.method import DAT, ENTRY, DATSettings

__all__ = ["DAT", "ENTRY", "AmplitudeGenerator", "DATSettings"]
