"""Sweeps: recipes, ablations and seeds from one file, run one after the other or on many devices, and compared."""

from dat.sweep.comparison import Comparison, Figure, RunFigures, compare
from dat.sweep.file import Sweep, SweepRun, read_sweep
from dat.sweep.options import SweepOptions
from dat.sweep.sweeping import SweepResult, run_sweep

__all__ = [
    "Comparison",
    "Figure",
    "RunFigures",
    "Sweep",
    "SweepOptions",
    "SweepResult",
    "SweepRun",
    "compare",
    "read_sweep",
    "run_sweep",
]
