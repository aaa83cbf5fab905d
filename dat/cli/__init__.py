"""The ``dat`` command: one file per command, a thin layer over the Python interface."""

from dat.cli.signals import quiet_signals

with quiet_signals():
    from dat.cli.main import main, program

__all__ = ["main", "program"]
