"""Every Triton kernel variant compiles for the GPUs we name, without one at hand, and keeps its values in registers.

The longest test of the suite: half a minute per GPU generation on two cores, less once Triton's cache has the kernels.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESSES = 2

pytest.importorskip("triton", reason="triton is not installed (it comes with torch on Linux)")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("capability", (80, 90, 100))
def test_no_variant_spills_registers(capability):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "TRITON_DEBUG")
    }
    command = [sys.executable, "-m", "tests.kernels.triton_variants", str(capability)]
    workers = [
        subprocess.Popen(
            [*command, str(part), str(PROCESSES)],
            cwd=ROOT,
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in range(PROCESSES)
    ]
    variants = []
    for worker in workers:
        output, errors = worker.communicate()
        assert worker.returncode == 0, errors[-4000:]
        variants += [json.loads(line) for line in output.splitlines()]
    assert len(variants) > 40
    for variant in sorted(variants, key=lambda variant: variant["name"]):
        print(variant["REG"], "registers,", variant["seconds"], "s:", variant["name"])
    spilled = [variant for variant in variants if variant["STACK"] or variant["LOCAL"]]
    assert not spilled
