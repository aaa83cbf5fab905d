"""dat -> engine -> kernels: nothing imports upwards."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "kernels": {"dat_engine", "dat", "bench", "tests"},
    "engine": {"dat", "bench", "tests"},
    "dat": {"bench", "tests"},
}


def imported_packages(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("storey", FORBIDDEN)
def test_nothing_imports_upwards(storey):
    files = list((ROOT / storey).rglob("*.py"))
    assert files
    upward = {str(path.relative_to(ROOT)): imported_packages(path) & FORBIDDEN[storey] for path in files}
    assert not {path: found for path, found in upward.items() if found}


def test_the_engine_knows_no_method_by_name():
    """Neither in code nor in what is written about it; nor what belongs to one method alone."""
    methods = r"trades|mart|dajat|las-?at|atop|alp|pgd[-_]?at|datmethod|latent|psi|theta|aag"
    own = r"amplitude ?generator|generator_update|mixed image|mix_source|lam\b"
    for path in (ROOT / "engine").rglob("*.py"):
        found = re.findall(rf"(?<![\w.])(?:{methods}|{own})(?!\w)", path.read_text(), re.IGNORECASE)
        assert not found, f"{path} speaks of {found}"


def test_which_weights_are_evaluated_is_decided_in_one_place():
    home = ROOT / "engine" / "dat_engine" / "step" / "evaluated.py"
    for path in [*(ROOT / "dat").rglob("*.py"), *(ROOT / "engine").rglob("*.py")]:
        assert path == home or '"training"]["model"]' not in path.read_text(), (
            f"{path} picks weights out of a checkpoint"
        )
