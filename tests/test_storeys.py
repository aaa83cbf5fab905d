"""dat -> engine -> kernels: nothing imports upwards."""

import ast
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
    names = ("trades", "pgd_at", "pgdat", "mart")
    for path in (ROOT / "engine").rglob("*.py"):
        identifiers = {node.id.lower() for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not identifiers & set(names), path
