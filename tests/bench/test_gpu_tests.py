"""The acceptance run's gates out of `pytest -m gpu`: what each test's end becomes, and what is left of a process that dies."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from bench.gpu_acceptance import gate_plugin, gpu_tests
from bench.gpu_acceptance.headline_gates import needs_of
from bench.gpu_acceptance.launch import ROOT
from bench.gpu_acceptance.records import Gate, Recorder, read, read_details
from bench.gpu_acceptance.sections import STAGES
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.subjects import SWITCHED, WAYS
from tests.conftest import device_or_skip

TESTS = """
import os
import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.gate("sum: {{left}} and {{right}}")
@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 2)])
def test_sums(left, right, record_property):
    record_property("note", f"{{left + right}}")
    record_property("curve", [left, right])
    assert left == right


@pytest.mark.gate("whole")
@pytest.mark.parametrize("part", [1, 2])
def test_parts(part):
    if part == 2:
        pytest.skip("no second part")


@pytest.mark.gate("absent")
def test_absent():
    pytest.skip("not installed")


def test_without_a_gate():
    {last}


@pytest.mark.gate("never begun")
def test_later():
    pass
"""
OWN = gate_plugin.gate_of_file("test_made.py")
SECONDS = 250.0
"""For a section: a busy machine starts pytest slowly."""


@pytest.fixture
def tried(tmp_path, monkeypatch):
    """Runs the tests above as a section would, in a project of their own, and gives gates by name, and details."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu: on a GPU\n  gate(name): the gate\n")
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(last="pass", *, optional=False, rehearsal=False):
        (tmp_path / "tests" / "test_made.py").write_text(TESTS.format(last=last))
        setting = Setting(
            device=torch.device("cpu"),
            rehearsal=rehearsal,
            data_root=None,
            work=tmp_path,
            ends=time.monotonic() + SECONDS,
            optional=optional,
        )
        path = tmp_path / "section.jsonl"
        gpu_tests.run(setting, Recorder(path), "test_made.py")
        gates, _ = read([path])
        assert len({gate.name for gate in gates}) == len(gates)
        return {gate.name: gate for gate in gates}, read_details([path])

    return run


def test_each_name_is_a_gate_and_what_names_none_is_the_files(tried):
    gates, details = tried()
    statuses = {name: (gate.status, gate.detail) for name, gate in gates.items()}
    assert statuses.pop("sum: 1 and 2") == ("failed", "1 failed; test_sums[1-2]: assert 1 == 2; 3")
    assert statuses == {
        "sum: 1 and 1": ("passed", "1 passed; 2"),
        "whole": ("passed", "1 passed, 1 skipped"),
        "absent": ("failed", "nothing was tested: not installed"),
        OWN: ("passed", "1 passed"),
        "never begun": ("passed", "1 passed"),
    }
    assert details == {"curve": [1, 2]}


def test_what_is_not_there_may_be_skipped_where_the_section_is_optional(tried):
    gates, _ = tried(optional=True)
    assert (gates["absent"].status, gates["absent"].detail) == ("skipped", "not installed")


def test_a_rehearsal_accepts_no_test_that_passes_without_a_gpu(tried):
    gates, _ = tried(rehearsal=True)
    assert (gates["whole"].status, gates["absent"].status) == ("failed", "skipped")
    assert gates["whole"].detail == "1 passed, 1 skipped: a test without a GPU is marked gpu"


def test_a_process_that_dies_keeps_what_was_found_out_and_fails_the_rest(tried):
    gates, _ = tried("os.abort()")
    assert gates["sum: 1 and 1"].status == "passed"
    for name in (OWN, "never begun"):
        assert (gates[name].status, gates[name].detail) == ("failed", "pytest was killed by SIGABRT")


def test_what_there_is_no_time_for_is_unfinished(tried, tmp_path, monkeypatch):
    """The time is up once the last test has begun, however long that took."""
    begun, limits = tmp_path / "begun", []

    def cut_off(command, *, timeout, check, **options):
        limits.append(timeout)
        with subprocess.Popen(command, **options) as process:
            while process.poll() is None and not begun.exists():
                time.sleep(0.02)
            process.kill()
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu_tests, "subprocess", SimpleNamespace(run=cut_off, TimeoutExpired=subprocess.TimeoutExpired))
    gates, _ = tried(f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(60)")
    assert len(limits) == 1 and 1 <= limits[0] < SECONDS
    assert gates["sum: 1 and 1"].status == "passed"
    assert gates[OWN].status == gates["never begun"].status == "unfinished"


def test_a_file_that_cannot_be_collected_is_a_red_gate(tried):
    gates, _ = tried("a bracket (")
    assert gates[OWN] == Gate(name=OWN, status="failed", detail="pytest ended with exit code 2")


def test_every_file_has_tests_for_a_gpu_where_only_torch_is_and_every_step_its_gates(tmp_path, blocked):
    """One collection of all files: a gate that nothing bears would withhold the figures that hang on it for ever."""
    record = Recorder(tmp_path / "all.jsonl")
    sections = [section for stage in STAGES for section in stage if section.module == "gpu_tests"]
    files = sorted({f"tests/{word.split()[0]}" for section in sections for word in section.words})
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--collect-only", "-p", gate_plugin.__name__]
    ended = subprocess.run(
        [*command, f"--gates-into={record.path}", *files],
        cwd=ROOT,
        env={**blocked, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert all(f"{file}::" in ended.stdout for file in files), ended.stdout + ended.stderr
    gates = record.still_expected()
    of_tests = ("amplitude_mix", "data:", "graph:", "step:", "tests on this device:")
    needs = {need for way in (*WAYS, *SWITCHED) for need in needs_of(str(way)) if need.startswith(of_tests)}
    assert needs and not [need for need in needs if not any(gate.startswith(need) for gate in gates)]
    if not torch.cuda.is_available():
        with pytest.raises(pytest.skip.Exception, match="needs a CUDA device"):
            device_or_skip("cuda")
