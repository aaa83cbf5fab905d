"""What is put right after a capture that failed; torch.cuda is replaced by a recorder, there being no GPU to fail on."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from dat_engine.step.graph import cuda_graph

POOL = (0, 7)


class Recorder:
    """Stands in for the parts of torch.cuda that a capture uses, and fails at its end as torch's does."""

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
