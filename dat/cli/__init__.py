"""The ``dat`` command: one file per command, a thin layer over the Python interface."""

from dat.cli.main import main

__all__ = ["main"]
