"""Fused operations of frequency-domain adversarial training, one folder each. Knows tensors only.

Every operation takes `backend=None` (the fastest that fits, with one warning where only the reference does) or a
backend's name (raises where that one cannot serve).
"""

from dat_kernels.amplitude_mix.op import amplitude_mix
from dat_kernels.augment.op import augment
from dat_kernels.backends import available_backends
from dat_kernels.pgd_step.op import pgd_start, pgd_step

__all__ = ["amplitude_mix", "augment", "available_backends", "pgd_start", "pgd_step"]
