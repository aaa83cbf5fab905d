"""Every Triton kernel against the reference in Triton's interpreter, on CPU tensors.

Triton looks at TRITON_INTERPRET when a kernel is defined, so the tests run in processes of their own; they are the
`triton_interpreted_*.py` files beside this one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

pytest.importorskip("triton", reason="triton is not installed (it comes with torch on Linux)")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("operation", ("amplitude_mix", "augment", "pgd_step"))
def test_kernels_equal_the_reference_in_the_interpreter(operation):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", FOLDER / f"triton_interpreted_{operation}.py"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
