"""How the GPU acceptance run measures and keeps what it measures: clock, profile, counters, result file, packages."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu_acceptance import __main__ as command
from bench.gpu_acceptance import clocks, dram_bytes, made_up_cifar
from bench.gpu_acceptance.device_timing import LONGEST_SLEEP, median_behind_sleep
from bench.gpu_acceptance.headline_gates import needs_of
from bench.gpu_acceptance.launch import ROOT, Launch, Outcome, run_stage
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.sections import HEADLINE_GATES, STAGES, Section
from bench.gpu_acceptance.step_profile import read_profile
from bench.gpu_acceptance.subjects import DAT_FOLDED, DAT_GROUPED, PGD_AT


class Clock:
    """A device on which work takes 2 ms and whose host takes `dispatch` cycles of its sleep to queue it."""

    def __init__(self, dispatch: int) -> None:
        self.dispatch, self.slept, self.order = dispatch, list[int](), list[str]()

    def event(self):
        return Mark(self)

    def sleep(self, cycles):
        self.slept.append(cycles)
        self.order.append("sleep")


class Mark:
    def __init__(self, clock):
        self.clock = clock

    def record(self):
        self.clock.order.append("record")

    def query(self):
        return self.clock.slept[-1] < self.clock.dispatch

    def synchronize(self):
        self.clock.order.append("wait")

    def elapsed_time(self, end):
        return 2.0


def test_work_is_timed_behind_a_sleep_that_outlasts_its_dispatch():
    clock = Clock(dispatch=3_000_000)
    seconds = median_behind_sleep(lambda: clock.order.append("work"), clock, repeats=3, warm_up=1)
    assert seconds == 0.002
    assert clock.slept == [1_000_000, 2_000_000, 4_000_000, 4_000_000, 4_000_000]
    assert clock.order[:6] == ["work", "sleep", "record", "work", "record", "wait"]
    with pytest.raises(RuntimeError, match="waits for the device"):
        median_behind_sleep(lambda: None, Clock(dispatch=2 * LONGEST_SLEEP), repeats=1)


def test_a_profile_gives_kernels_launches_and_the_nodes_of_a_replay():
    def event(name, category, start, duration, **arguments):
        return {"ph": "X", "name": name, "cat": category, "ts": start, "dur": duration, "args": arguments}

    events = [
        event("dat-engine window: steps", "user_annotation", 100, 1000),
        event("cudaGraphLaunch", "cuda_runtime", 101, 5, correlation=7),
        event("early", "kernel", 50, 500, correlation=1),  # of before the window
        event("conv", "kernel", 110, 300, correlation=7),
        event("conv", "kernel", 420, 200, correlation=7),
        event("Memcpy DtoD", "gpu_memcpy", 630, 100, correlation=9),
    ]
    found = read_profile(events, 2, 1e-3, 50e-6)
    assert found.kernel_seconds == pytest.approx(300e-6)
    assert (found.launches, found.graph_nodes, found.data_seconds) == (1.5, 2, 25e-6)
    assert found.kernels[0] == {"name": "conv", "milliseconds": 0.25, "calls": 1.0, "percent": 83.33}


def test_bytes_are_read_out_of_what_nsight_compute_writes():
    head = '"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
    rows = [
        f'"{number}","9","mix_forward","{metric}","{unit}","{value}"'
        for number, metric, unit, value in (
            (0, "dram__bytes_read.sum", "Mbyte", "1,200.5"),
            (0, "dram__bytes_write.sum", "Kbyte", "500"),
            (1, "dram__bytes_read.sum", "Mbyte", "800.5"),
        )
    ]
    assert dram_bytes.read_bytes(["==PROF== Connected", head, *rows]) == {"mix_forward": pytest.approx(1000.75e6)}
    assert dram_bytes.must_move(2)["augment"] == 5 * 2 * 3072


def test_clocks_are_what_nvidia_smi_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clocks.read_clocks() is None
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f"#!{sys.executable}\nprint('1980 MHz, 3201 MHz, 1980 MHz, 3201 MHz, 90.1 W, 40, 3 %, P0, 580.159')"
    )
    program.chmod(0o755)
    read = clocks.read_clocks()
    assert read is not None and read["clocks.sm"] == "1980 MHz" and read["driver_version"] == "580.159"
    program.write_text(f"#!{sys.executable}\nprint('No devices were found')")
    assert clocks.read_clocks() is None


def test_a_run_that_is_cut_off_leaves_what_it_had_found_out(tmp_path, monkeypatch):
    def cut_off(sections, launch):
        record = Recorder(launch.work / "ceilings.jsonl")
        with record.gate("ceilings: one"):
            pass
        record.figure("copy bandwidth", 4300.0, "GB/s")
        record.detail("curve", [1, 2])
        with gzip.open(launch.work / "steps.trace.json.gz", "wt") as file:
            file.write("{}")
        raise SystemExit(143)

    monkeypatch.setattr(command, "run_together", cut_off)
    with pytest.raises(SystemExit):
        command.main(["--dry-run-cpu", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["complete"] is False
    assert [gate["name"] for gate in result["gates"]] == ["ceilings: one"]
    assert result["invalid_figures"][0]["value"] == 4300.0 and result["details"] == {"curve": [1, 2]}
    assert {"table.txt", "sections.log", "steps.trace.json.gz"} <= {path.name for path in tmp_path.iterdir()}


def test_what_is_optional_is_skipped_where_time_runs_out(tmp_path):
    launch = Launch(work=tmp_path, rehearsal=False, data_root=None, ends=time.monotonic() + 10)
    (outcome,) = run_stage([Section(name="a", summary="", limit=3.0, optional=True)], launch)
    assert outcome == Outcome(
        section="a", complete=True, detail="the run's time was used up", seconds=0.0, skipped=True
    )
    names = [section.name for stage in STAGES for section in stage]
    optional = {section.name: section.optional for stage in STAGES for section in stage}
    assert names.index("step_times") < min(index for index, name in enumerate(names) if optional[name])
    assert not any(section.optional for section in HEADLINE_GATES)


def test_a_headline_hangs_on_its_own_gates_only():
    grouped, folded, pgd = (needs_of(str(way)) for way in (DAT_GROUPED, DAT_FOLDED, PGD_AT))
    assert "graph: captured = compiled, bf16, grouped" in grouped
    assert not any("fp16" in need or "alternating" in need or "PGD-AT" in need or "folded" in need for need in grouped)
    assert not any("grouped" in need for need in folded)
    assert not any("amplitude_mix" in need or "oracle" in need for need in pgd)
    assert needs_of("eager PGD-AT-10, float32") == ("step times: eager PGD-AT-10, float32 trains",)


def test_what_dat_train_lacks_is_named(monkeypatch):
    assert made_up_cifar.missing_for_training() is None
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert made_up_cifar.missing_for_training() == "dat train needs tyro, which is not installed"


def test_every_section_can_be_imported_where_only_torch_is(blocked):
    names = sorted({section.module or section.name for stage in STAGES for section in stage})
    text = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; import torchvision"
    modules = [f"bench.gpu_acceptance.{name}" for name in names]
    ended = subprocess.run(
        [sys.executable, "-c", text, *modules], cwd=ROOT, env=blocked, capture_output=True, text=True, timeout=250
    )
    assert ended.stderr.strip().endswith("No module named 'torchvision'"), ended.stderr
    assert "<string>" in ended.stderr and "bench/gpu_acceptance" not in ended.stderr


def test_sections_that_need_more_are_skipped_where_only_torch_is(blocked, tmp_path):
    sections = ("data_gates", "trainer_epoch", "kill_resume", "dali", "optimizers", "training")
    words = [word for name in sections for word in ("--only", name)]
    ended = subprocess.run(
        [sys.executable, "-m", "bench.gpu_acceptance", "--dry-run-cpu", "--out", str(tmp_path), *words],
        cwd=ROOT,
        env=blocked,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (path,) = Path(tmp_path).glob("*.json")
    gates = {gate["name"]: gate for gate in json.loads(path.read_text())["gates"]}
    assert {gate["status"] for name, gate in gates.items() if name.startswith("data:")} == {"skipped"}
    for name in (
        "trainer: two epochs by dat train",
        "kill -9: a run by the command line is resumed from its newest checkpoint",
    ):
        assert gates[name]["status"] == "skipped"
        assert gates[name]["detail"].startswith("dat train needs tyro, safetensors, filelock, tensorboard")
    assert gates["training: DAT, joint learns"]["status"] == "passed"
