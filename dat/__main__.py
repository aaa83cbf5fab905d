"""``python -m dat``: the `dat` command, for ``torchrun -m dat``."""

import sys

from dat.cli import main

sys.exit(main())
