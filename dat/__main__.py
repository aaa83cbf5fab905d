"""``python -m dat``: the `dat` command, for ``torchrun -m dat``."""

from dat.cli import program

program()
