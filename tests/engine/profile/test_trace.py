"""Reading a profile back: which phase a kernel belongs to, what runs at once, and that phases make up the step."""

import json

import pytest
import torch

from dat import models
from dat.methods import METHODS
from dat.methods.task import Task
from dat_engine.data import Batch
from dat_engine.profile.ranges import RANGES, named_range
from dat_engine.profile.trace import OTHER, innermost, read_windows, recording, shared, window
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def annotation(name: str, start: float, duration: float, tid: int = 1) -> dict:
    return {"ph": "X", "cat": "user_annotation", "name": name, "pid": 1, "tid": tid, "ts": start, "dur": duration}


def launch(correlation: int, start: float, *, tid: int = 1, category: str = "cuda_runtime") -> dict:
    arguments = {"cbid": 211, "correlation": correlation}
    return {
        "ph": "X",
        "cat": category,
        "name": "launch",
        "pid": 1,
        "tid": tid,
        "ts": start,
        "dur": 1,
        "args": arguments,
    }


def kernel(correlation: int, start: float, duration: float, *, category: str = "kernel", **arguments) -> dict:
    arguments = {"device": 0, "stream": 7, "correlation": correlation, **arguments}
    name = f"kernel {correlation}"
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 0,
        "tid": 7,
        "ts": start,
        "dur": duration,
        "args": arguments,
    }


def gpu_step() -> list[dict]:
    """One step as the profiler writes it: the host is far ahead of the device, backward launches from thread 2."""
    return [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "ts": 0, "args": {"name": "python"}},
        annotation("dat-engine window: dat", 0, 1000),
        annotation("dat-engine: attack", 10, 50),
        annotation("Optimizer.step#SGD.step", 130, 20),
        annotation("dat-engine: joint", 60, 60),
        annotation("dat-engine: optimizer", 120, 30),
        launch(1, 12),
        launch(2, 40, tid=2),  # autograd's thread, while the attack waits for it
        launch(3, 70, category="cuda_driver"),
        launch(4, 90, tid=2),
        launch(6, 155),
        {
            "ph": "X",
            "cat": "cpu_op",
            "name": "sgd",
            "pid": 1,
            "tid": 1,
            "ts": 130,
            "dur": 9,
            "args": {"External id": 9},
        },
        kernel(1, 100, 100),
        kernel(2, 200, 200),
        kernel(3, 500, 100),
        kernel(4, 550, 100),  # half of it beside kernel 3, on another stream
        kernel(5, 700, 20, **{"External id": 9}),  # launched by a call that is not traced
        kernel(6, 720, 10, category="gpu_memset"),
        annotation("dat-engine: attack", 2000, 50),  # of another window
        launch(7, 2010),
        kernel(7, 2020, 30),
    ]


def write(path, events):
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    return path


def test_device_time_goes_to_the_phase_that_launched_it(tmp_path):
    reading = read_windows(write(tmp_path / "trace.json", gpu_step()), CUDA)["dat"]
    microseconds = {name: pytest.approx(1e6 * time) for name, time in reading.phases.items()}
    expected = {"attack": 300, "joint": 150, "optimizer": 20, OTHER: 10}
    assert microseconds == {**dict.fromkeys(RANGES, 0), **expected}
    assert reading.seconds == pytest.approx(1000e-6)
    assert reading.device_seconds == pytest.approx(480e-6)


def test_work_outside_the_window_does_not_count(tmp_path):
    events = [event for event in gpu_step() if "window" not in event["name"]]
    path = write(tmp_path / "trace.json", [*events, annotation("dat-engine window: part", 150, 400)])
    reading = read_windows(path, CUDA)["part"]
    # kernel 1 from 150, kernel 2, kernel 3 until 550; kernel 7 is far away
    assert reading.device_seconds == pytest.approx(300e-6)


def test_a_gpu_trace_without_gpu_work_is_announced(tmp_path):
    path = write(tmp_path / "trace.json", [annotation("dat-engine window: dat", 0, 10)])
    with pytest.warns(UserWarning, match="recorded no GPU work"):
        assert read_windows(path, CUDA)["dat"].device_seconds == 0


def test_nested_spans_belong_to_the_innermost():
    spans = [(0.0, 10.0, "outer"), (2.0, 5.0, "inner"), (5.0, 6.0, "next"), (8.0, 8.0, "empty")]
    assert innermost(spans) == [(0.0, 2.0, "outer"), (2.0, 5.0, "inner"), (5.0, 6.0, "next"), (6.0, 10.0, "outer")]


def test_concurrent_spans_share_the_moment():
    times = shared([(0.0, 4.0, "one"), (2.0, 6.0, "two"), (2.0, 4.0, "two"), (9.0, 10.0, "one")])
    assert times == pytest.approx({"one": 2 + 2 / 3 + 1, "two": 4 / 3 + 2})
    assert sum(times.values()) == pytest.approx(7)


@pytest.mark.parametrize("method", ["dat", "pgd-at", "trades", "plain"])
def test_phases_make_up_the_step_on_the_cpu(tmp_path, method):
    task = Task(num_classes=10, image_shape=(3, 32, 32), epsilon=8 / 255)
    entry = METHODS[method]
    step = TrainingStep(
        models.build("resnet8", num_classes=10, branches=entry.branches(entry.settings)),
        entry.create(entry.settings, task),
        optimizer=SGDSettings(),
    )
    images = torch.rand(16, 3, 32, 32)
    batch = Batch(images=images, originals=images, targets=torch.arange(16) % 10, indices=torch.arange(16))
    step(batch)
    with recording(tmp_path / "trace.json", CPU):
        for index in range(4):
            with window(str(index)):
                step(batch)
        step(batch)
    readings = read_windows(tmp_path / "trace.json", CPU)
    assert set(readings) == {"0", "1", "2", "3"}
    for reading in readings.values():
        assert reading.device_seconds is None
        assert sum(reading.phases.values()) == pytest.approx(reading.seconds)
    # the calmest one: on a busy machine a step may be interrupted between two phases
    reading = min(readings.values(), key=lambda reading: reading.phases[OTHER] / reading.seconds)
    assert reading.phases[OTHER] < 0.2 * reading.seconds
    active = {
        "dat": {"clean forward", "mix", "attack", "joint", "optimizer"},
        "pgd-at": {"clean forward", "attack", "joint", "optimizer"},
        "trades": {"clean forward", "attack", "joint", "optimizer"},
        "plain": {"joint", "optimizer"},
    }
    assert {name for name in RANGES if reading.phases[name] > 0} == active[method]
    if method == "pgd-at":
        assert reading.phases["attack"] > 2 * reading.phases["joint"]  # 20F and 3F


def test_a_backward_pass_counts_for_its_phase(tmp_path):
    weight = torch.rand(400, 400, requires_grad=True)
    with recording(tmp_path / "trace.json", CPU), window("one"):
        product = weight @ weight
        with named_range("joint"):
            torch.autograd.grad(product.sum(), weight)
    reading = read_windows(tmp_path / "trace.json", CPU)["one"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    backward = [event for event in events if event.get("name") == "MmBackward0"]
    assert len(backward) == 1 and reading.phases["joint"] >= backward[0]["dur"] / 1e6
