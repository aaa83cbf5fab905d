"""dat -> dat_engine -> dat_kernels: nothing imports upwards, by whatever way."""

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
OLD_NAMES = {"engine", "kernels"}  # folders, which Python would import as empty namespaces; `kernels` is Hugging Face's
IMPORTERS = {"import_module", "__import__", "find_spec", "importorskip"}
PATCHERS = {"setattr", "delattr", "patch"}  # of monkeypatch and mock: "package.module.name" names what is imported


def imported_packages(text: str) -> set[str]:
    """Top-level packages that the source imports: by statements, by name, or by the name of what is patched."""
    packages = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            packages.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call):
            packages |= _named_packages(node)
    return packages


def _named_packages(call: ast.Call) -> set[str]:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg in ("name", "target"))]
    starts = [start for start in map(_constant_start, given) if start]
    if function in IMPORTERS:
        return {start.split(".")[0] for start in starts}
    if function in PATCHERS:  # these take objects and keys too: only a dotted string is an import
        return {start.split(".")[0] for start in starts if "." in start}
    return set()


def _constant_start(node: ast.expr) -> str:
    """A string as far as the source alone tells it: a constant, the beginning of an f-string or of a sum."""
    if isinstance(node, ast.JoinedStr) and node.values:
        return _constant_start(node.values[0])
    if isinstance(node, ast.BinOp):
        return _constant_start(node.left)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def imports_of(files: list[Path], wanted: set[str]) -> dict[str, set[str]]:
    assert files
    found = {str(path.relative_to(ROOT)): imported_packages(path.read_text()) & wanted for path in files}
    return {path: packages for path, packages in found.items() if packages}


@pytest.mark.parametrize(
    "source",
    [
        "import dat.models",
        "from dat import models",
        "def f():\n    from dat.models import build",
        "importlib.import_module('dat.models')",
        "import_module(name='dat')",
        "importlib.import_module(f'dat.{name}')",
        "importlib.import_module('dat.' + name)",
        "__import__('dat')",
        "importlib.util.find_spec('dat.models')",
        "pytest.importorskip('dat')",
        "monkeypatch.setattr('dat.models.build', None)",
        "mock.patch('dat.models.build')",
    ],
)
def test_each_way_of_importing_is_seen(source):
    assert imported_packages(source) == {"dat"}


@pytest.mark.parametrize(
    "source", ["from . import dat", "settings['dat']", "setattr(task, 'dat', 1)", "monkeypatch.setattr(dat, 'x', 1)"]
)
def test_a_word_is_not_an_import(source):
    assert imported_packages(source) == set()


@pytest.mark.parametrize("storey", FORBIDDEN)
def test_nothing_imports_upwards(storey):
    assert not imports_of(list((ROOT / storey).rglob("*.py")), FORBIDDEN[storey])


def test_nothing_imports_by_the_old_names():
    files = [
        file for folder in ("bench", "dat", "engine", "kernels", "tests") for file in (ROOT / folder).rglob("*.py")
    ]
    assert not imports_of([file for file in files if file != Path(__file__)], OLD_NAMES)


def test_no_text_run_by_another_process_imports_by_the_old_names():
    """Such as `python -c "import kernels"` in a test, which succeeds with the empty namespace of the folder."""
    found = {}
    for folder in ("bench", "dat", "engine", "kernels", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            texts = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
            programs = [
                text for text in texts if isinstance(text, str) and "import " in text and file != Path(__file__)
            ]
            packages = {package for text in programs for package in _packages_of_program(text)}
            if packages & OLD_NAMES:
                found[str(file.relative_to(ROOT))] = packages & OLD_NAMES
    assert not found


def _packages_of_program(text: str) -> set[str]:
    try:
        return imported_packages(text)
    except (SyntaxError, ValueError):  # prose, or a part of a program
        return set()


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


def test_the_command_line_is_a_layer_on_top():
    """Nothing in `dat` that also serves Python imports the command line."""
    files = [path for path in (ROOT / "dat").rglob("*.py") if path.parent.name != "cli" and path.name != "__main__.py"]
    assert files
    found = [
        str(path.relative_to(ROOT)) for path in files if re.search(r"\b(?:from|import) dat\.cli\b", path.read_text())
    ]
    assert not found
