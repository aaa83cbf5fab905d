"""The wheel holds our three packages and nothing else, and lives beside Hugging Face's `kernels`."""

import csv
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("dat", "dat_engine", "dat_kernels")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # compiles the native module: a minute


def pip(*words):
    return subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    tools_are_here = all(importlib.util.find_spec(tool) for tool in ("scikit_build_core", "nanobind"))
    isolation = ["--no-build-isolation"] if tools_are_here else []
    built = pip("wheel", "--no-deps", *isolation, "-w", folder, f"-Cbuild-dir={folder / 'build'}", ROOT)
    if built.returncode and not tools_are_here:
        pytest.skip(f"neither build tools here nor a registry to fetch them from: {built.stderr.strip()[-300:]}")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def huggingface_kernels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    fetched = pip("download", "--no-deps", "--only-binary", ":all:", "-d", folder, "kernels")
    if fetched.returncode:
        pytest.skip(f"Hugging Face's kernels cannot be fetched from the registry: {fetched.stderr.strip()[-300:]}")
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_our_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    places = {name.split("/")[0] for name in names}
    (metadata,) = [place for place in places if place.endswith(".dist-info")]
    assert places == {*OURS, metadata}
    assert metadata.startswith("dat_engine-")
    foreign = [name for name in names if name.endswith((".cpp", ".h", ".pyc")) or "/test" in name]
    assert not foreign
    assert any(name.startswith("dat_kernels/_native.") for name in names), "compiled"
    modules = {
        str(file.relative_to(folder.parent))
        for folder in (ROOT / "dat", ROOT / "engine" / "dat_engine", ROOT / "kernels" / "dat_kernels")
        for file in folder.rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name for name in names if name.endswith("py.typed")} == {f"{package}/py.typed" for package in OURS}


@pytest.mark.parametrize("ours_first", [True, False])
def test_it_lives_beside_huggingface_kernels(wheel, huggingface_kernels, tmp_path, ours_first):
    for path in (wheel, huggingface_kernels) if ours_first else (huggingface_kernels, wheel):
        installed = pip("install", "--no-deps", "--no-index", "--target", tmp_path, path)
        assert installed.returncode == 0, installed.stderr
    claims = [claimed_files(folder) for folder in tmp_path.glob("*.dist-info")]
    assert len(claims) == 2 and not set.intersection(*claims)
    # without .pth files, which would put this checkout in front
    program = f"""
import importlib.util, pathlib, sys
sys.path[:] = [{str(tmp_path)!r}, *sys.path, *{[path for path in sys.path if "-packages" in path]!r}]
try:
    import kernels
except ModuleNotFoundError as error:  # it was installed without what it depends on
    assert error.name.split(".")[0] not in {("kernels", *OURS)!r}, error
import dat, dat_engine, dat_kernels
import dat_engine.data, dat_kernels._native
for name in {("kernels", *OURS)!r}:
    print(pathlib.Path(importlib.util.find_spec(name).origin).parent)
assert "native" in dat_kernels.available_backends()
"""
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == [str(tmp_path / name) for name in ("kernels", *OURS)]


def claimed_files(metadata):
    with (metadata / "RECORD").open(newline="") as record:
        return {row[0] for row in csv.reader(record)}
