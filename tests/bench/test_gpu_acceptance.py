"""The GPU acceptance run: its code is rehearsed on the CPU; its rules and its isolation of sections are held here."""

import json
import sys
import time
from pathlib import Path

import pytest

from bench.gpu_acceptance import launch as launching
from bench.gpu_acceptance import targets
from bench.gpu_acceptance.__main__ import main
from bench.gpu_acceptance.launch import Launch, Outcome, run_stage
from bench.gpu_acceptance.records import Figure, Gate, Recorder, read, require
from bench.gpu_acceptance.sections import SECTIONS, Section
from bench.gpu_acceptance.table import render
from bench.gpu_acceptance.verdict import judge

ENDED = [Outcome(section="a", complete=True, detail="", seconds=1.0)]


@pytest.mark.slow
@pytest.mark.timeout(900)  # the machine may be busy; alone it takes a minute
def test_every_section_runs_its_code_on_the_cpu(tmp_path, capsys):
    code = main(["--dry-run-cpu", "--out", str(tmp_path), "--budget", "800"])
    text = capsys.readouterr().out
    assert code == 0, text + (tmp_path / "sections.log").read_text()
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["rehearsal"] and result["green"] and result["complete"]
    assert [section["section"] for section in result["sections"]] == list(SECTIONS)
    assert all(section["complete"] for section in result["sections"])
    # every figure that a target names was made by some section, and none is shown
    made = set(result["withheld"])
    assert made >= {target.figure for target in targets.TARGETS}
    assert result["figures"] == [] and all(target["value"] is None for target in result["targets"])
    prefixes = (
        "amplitude_mix",
        "tests on this device:",
        "step:",
        "graph:",
        "data:",
        "optimizer:",
        "switches:",
        "dali:",
    )
    prefixes += (
        "trainer:",
        "kill -9:",
        "repeatability:",
        "training:",
        "dram bytes:",
        "deterministic:",
        "capture failure:",
    )
    names = [gate["name"] for gate in result["gates"]]
    # every gate that a figure hangs on is one: a name that nothing bears would withhold the figure for ever
    needs = {need for figure in result["invalid_figures"] for need in figure["needs"]}
    assert not [need for need in needs if not any(name.startswith(need) for name in names)]
    assert len(names) == len(set(names)), "two gates have one name"
    assert {"profile of the DAT step", "training: PGD-AT"} <= set(result["details"])
    assert (tmp_path / "steps.trace.json.gz").stat().st_size > 1000
    assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes)


def test_what_is_asked_for_wrongly_is_named(capsys):
    assert main(["--only", "nonsense"]) == 2
    assert "no section is called nonsense; sections are ceilings" in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert "graph_gates" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_folder_that_cannot_be_written_to_is_named_before_anything_runs(option, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = tmp_path / "file" if option == "--out" else tmp_path / "file" / "result.json"
    assert main(["--dry-run-cpu", "--only", "ceilings", option, str(given)]) == 2
    said = capsys.readouterr()
    assert f"cannot write into {tmp_path / 'file'} (" in said.err and not said.out


def test_a_time_counts_only_where_all_its_gates_are_green():
    gates = [
        Gate(name="mix 32: one", status="passed"),
        Gate(name="mix 32: two", status="failed", detail="error 1.0"),
        Gate(name="step: three", status="unfinished"),
        Gate(name="data: four", status="passed"),
        Gate(name="dali: five", status="skipped", detail="not installed"),
    ]
    figures = [
        Figure(name=name, value=1.0, unit="µs", needs=needs)
        for name, needs in {
            "red": ("mix 32",),
            "green": ("data:",),
            "unfinished": ("data:", "step:"),
            "never run": ("graph:",),
            "skipped": ("dali:",),
            "free": (),
        }.items()
    ]
    verdict = judge(gates, figures, ENDED, rehearsal=False)
    assert [figure.name for figure in verdict.figures] == ["green", "free"]
    assert verdict.withheld["red"] == "gate failed: mix 32: two"
    values = {entry["name"]: entry for entry in verdict.to_dict()["invalid_figures"]}
    assert values["red"]["value"] == 1.0 and values["red"]["valid"] is False
    assert values["red"]["reason"] == "gate failed: mix 32: two"
    assert verdict.withheld["never run"] == "no gate 'graph:' was run"
    assert not verdict.green
    assert judge(gates[:1], figures, ENDED, rehearsal=False).green
    assert judge(gates[:1], figures, ENDED, rehearsal=True).figures == ()


def test_targets_are_met_missed_withheld_or_not_measured():
    gates = [Gate(name="mix", status="passed"), Gate(name="pgd", status="failed")]
    figures = [
        Figure(name=targets.MIX_SMALL, value=7.0, unit="µs", needs=("mix",)),
        Figure(name=targets.MIX_LARGE, value=50.0, unit="%", needs=("mix",)),
        Figure(name=targets.PGD_STEP, value=95.0, unit="%", needs=("pgd",)),
    ]
    verdict = judge(gates, figures, ENDED, rehearsal=False)
    states = {judged.target.figure: judged.state for judged in verdict.targets}
    assert states[targets.MIX_SMALL] == "met"
    assert states[targets.MIX_LARGE] == "missed"
    assert states[targets.PGD_STEP] == "withheld"
    assert states[targets.BUSY] == "not measured"
    text = render(verdict, hardware="a GPU", rehearsal=False)
    assert "95" not in text  # the time of a kernel whose gate is red stands nowhere
    assert "NOT ACCEPTED" in text


def test_a_gate_that_fails_lets_the_next_one_go_on(tmp_path):
    path = tmp_path / "a.jsonl"
    record = Recorder(path)
    with record.gate("first"):
        require(False, "one differs")
    with record.gate("second"):
        raise RuntimeError("CUDA error")
    with record.gate("third") as notes:
        notes.text = "fine"
    path.write_text(path.read_text() + '{"kind": "gate", "na')  # a process that was killed while writing
    gates, _ = read([path, tmp_path / "missing.jsonl"])
    assert [(gate.status, gate.detail) for gate in gates] == [
        ("failed", "one differs"),
        ("failed", "RuntimeError: CUDA error"),
        ("passed", "fine"),
    ]


def test_a_section_that_crashes_or_hangs_costs_only_itself(tmp_path, monkeypatch):
    programs = {
        "crashing": "import os; print('last words', flush=True); os.abort()",
        "hanging": "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        " time.sleep(600)",
        "good": "pass",
    }
    monkeypatch.setattr(
        launching, "command", lambda names, launch, limit: [sys.executable, "-c", programs[names[0]]], raising=True
    )
    launch = Launch(work=tmp_path, rehearsal=False, data_root=None, ends=time.monotonic() + 600)
    limits = {"crashing": 200.0, "hanging": 3.0, "good": 200.0}  # a busy machine starts a Python slowly
    stage = [Section(name=name, summary="", limit=limits[name]) for name in programs]
    outcomes = {outcome.section: outcome for outcome in run_stage(stage, launch)}
    assert outcomes["good"].complete
    assert outcomes["crashing"].detail == "killed by SIGABRT"
    assert outcomes["hanging"].detail == "stopped after 3 s"
    assert "last words" in Path(launch.log("crashing")).read_text()


def test_a_run_out_of_time_says_so(tmp_path):
    launch = Launch(work=tmp_path, rehearsal=False, data_root=None, ends=time.monotonic())
    (outcome,) = run_stage([Section(name="a", summary="", limit=3.0)], launch)
    assert not outcome.complete and outcome.detail == "the run's time was used up"
