"""A capture that fails: the uncaptured step's numbers after one warning, and everything else as before it."""

import contextlib
import warnings
from types import SimpleNamespace

import pytest
import torch

from dat_engine.data import Augmentation, ImageArrays, ResidentLoader, prefetched
from dat_engine.step.graph import GraphedStep, cuda_graph, pass_through
from tests.conftest import device_or_skip
from tests.engine.step.whole_steps import (
    RATE,
    batches,
    differing,
    state_of,
    train,
    training_step,
)

pytestmark = pytest.mark.usefixtures("repeatable_convolutions")

POOL = (0, 7)
GROWTH = 64 << 20
"""Bytes by which the allocator's active memory may differ after 59 steps: a few batches of 12 MB, far from one per step."""


def failing(step):
    """`step` behind a graph whose capture meets a read by the host; on a GPU after work on both of its streams."""
    if step.device.type == "cpu":
        return GraphedStep(step, capture=failing_stand_in)
    plain = step.attack_model.logits

    def reading(images, layout=("base",)):
        logits = plain(images, layout)
        if len(layout) > 1 and torch.cuda.is_current_stream_capturing():
            float(logits.sum())
        return logits

    step.attack_model.logits = reading
    return GraphedStep(step)


def failing_stand_in(function, step):
    pass_through(function, step)
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.gate("capture failure: one warning, and the numbers of the uncaptured step")
def test_one_warning_and_the_numbers_of_the_uncaptured_step(device):
    step, twin = (training_step(device, branching="folded") for _ in range(2))
    execute, given, rates = failing(step), batches(device, 3), [RATE] * 3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = train(step, execute, given, rates)
    assert len([warning for warning in caught if "cannot be captured" in str(warning.message)]) == 1
    assert not execute.captured
    assert losses == train(twin, twin, given, rates)
    assert not differing(state_of(twin), state_of(step))


@pytest.mark.gate("capture failure: random numbers outside the step can still be drawn")
def test_random_numbers_outside_the_step_can_still_be_drawn(device):
    with pytest.warns(UserWarning, match="cannot be captured"):
        failing(training_step(device, branching="folded"))(batches(device, 1)[0])
    assert torch.randn(4, device=device).isfinite().all()


@pytest.mark.gpu
@pytest.mark.gate("capture failure: memory does not grow with the steps that follow")
def test_memory_does_not_grow_with_the_steps_that_follow(record_property):
    """On a GPU alone: what grew was what torch's allocator kept for a capture that had failed."""
    device = device_or_skip("cuda")
    generator = torch.Generator(device).manual_seed(0)
    arrays = ImageArrays(
        images=torch.randint(0, 256, (50_000, 3, 32, 32), generator=generator, dtype=torch.uint8, device=device),
        targets=torch.arange(50_000, device=device) % 10,
        class_names=tuple(map(str, range(10))),
    )
    augmentation = Augmentation(padding=4, flip=True)
    loader = ResidentLoader(arrays, batch_size=512, augmentation=augmentation, seed=0, device=device)
    execute = failing(training_step(device, branching="folded"))
    active: list[int] = []
    for index, batch in enumerate(prefetched(loader.epoch(0), device)):
        execute(batch)
        if index in (20, 79):
            torch.cuda.synchronize()
            active.append(torch.cuda.memory_stats()["active_bytes.all.current"])
        if index == 79:
            break
    record_property("note", f"{active[1] - active[0]} bytes in 59 steps")
    assert active[1] - active[0] < GROWTH


@pytest.mark.gate("capture failure: a step made afterwards is captured")
def test_a_step_made_afterwards_is_captured(device):
    given = batches(device, 3)
    with pytest.warns(UserWarning, match="cannot be captured"):
        failing(training_step(device, branching="folded"))(given[0])
    later = training_step(device)
    again = GraphedStep(later)
    train(later, again, given, [RATE] * 3)
    assert again.captured


class Recorder:
    """Stands in for the parts of torch.cuda that a capture uses, there being no GPU to fail on, and fails at its end."""

    def __init__(self, *, ended_by_reset: bool) -> None:
        self.here = SimpleNamespace(wait_stream=lambda other: None)
        self.current = self.here
        self.ended_by_reset = ended_by_reset
        self.allocator: list[tuple] = []
        self.renewed: list[object] = []

    @contextlib.contextmanager
    def capture(self, graph, *, pool, stream, capture_error_mode):
        self.allocator.append(("begin", pool))
        self.current = stream  # and stays so: torch leaves the stream only after a capture that ended well
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def end_allocation(self, index, pool):
        if self.ended_by_reset:
            raise RuntimeError("not currently recording to this pool")
        self.allocator.append(("end", index, pool))

    def release_pool(self, index, pool):
        self.allocator.append(("release", index, pool))

    def generator(self, device=None):
        return SimpleNamespace(
            device=torch.device("cuda", 0),
            get_state=lambda: "state",
            set_state=lambda state: None,
            graphsafe_get_state=lambda: "fresh",
            graphsafe_set_state=self.renewed.append,
        )


@pytest.fixture(params=[False, True], ids=["torch 2.11", "newer torch"])
def recorder(request, monkeypatch):
    made = Recorder(ended_by_reset=request.param)
    graph = SimpleNamespace(register_generator_state=lambda generator: None, reset=lambda: None)
    replacements = {
        "device": lambda device: contextlib.nullcontext(),
        "current_stream": lambda: made.here,
        "Stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "stream": lambda stream: contextlib.nullcontext(),
        "set_stream": lambda stream: setattr(made, "current", stream),
        "CUDAGraph": lambda: graph,
        "graph_pool_handle": lambda: POOL,
        "graph": made.capture,
        "default_generators": [made.generator()],
    }
    for name, value in replacements.items():
        monkeypatch.setattr(torch.cuda, name, value, raising=False)
    monkeypatch.setattr(torch, "Generator", made.generator)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", made.end_allocation, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", made.release_pool, raising=False)
    return made


def test_a_failed_capture_puts_stream_allocator_and_generators_back_and_names_the_cause(recorder):
    calls = []

    def function():
        calls.append(None)
        if len(calls) > 3:
            raise ValueError("a host read inside the step")
        return {}

    step = SimpleNamespace(device=torch.device("cuda", 0), generator=recorder.generator())
    with pytest.raises(ValueError, match="a host read inside the step"):
        cuda_graph(function, step)
    assert recorder.current is recorder.here
    expected = [] if recorder.ended_by_reset else [("end", 0, POOL), ("release", 0, POOL)]
    assert recorder.allocator == [("begin", POOL), *expected]
    assert recorder.renewed == ["fresh", "fresh"]  # the step's generator and the default one
