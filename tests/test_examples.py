"""Every script of examples/ runs, as it is, and says something of what it found."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SAYS = {
    "train_a_recipe.py": r"robust: \d+\.\d % .*\nepoch 1: loss \d",
    "own_model_and_data.py": r"'natural': (\d+\.\d+), .*'pgd20': (\d+\.\d+)",
    "kernels_in_another_loop.py": r"natural (\d+\.\d) %, under PGD-5 (\d+\.\d) %",
    "attack_with_another_library.py": r"natural (\d+\.\d) %, PGD-20 \d+\.\d %, AutoAttack's APGD \d+\.\d %",
}
NEEDS = {"attack_with_another_library.py": "pyautoattack"}
BETTER_THAN_CHANCE = {"own_model_and_data.py": (50, 20), "kernels_in_another_loop.py": (70, 30)}


def test_every_example_is_tried():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_examples_run_one_after_the_other(tmp_path):
    """In one folder and in this order: an example may take the run of the first one."""
    for name, says in SAYS.items():
        if (needed := NEEDS.get(name)) and importlib.util.find_spec(needed) is None:
            pytest.skip(f"{name} attacks by {needed}: pip install 'dat-engine[autoattack]'")
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name)],
            cwd=tmp_path,
            env={**os.environ, "EPOCHS": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        found = re.search(says, done.stdout)
        assert found, f"{name}: {done.stdout}"
        for figure, least in zip(found.groups(), BETTER_THAN_CHANCE.get(name, ()), strict=False):
            assert float(figure) > least, f"{name}: {done.stdout}"
