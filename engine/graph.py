"""A whole training step as one CUDA graph launch.

Everything that changes from step to step is a tensor that the graph reads: the batch (static buffers), the learning rate,
the random state (registered with the graph), the loss scale. Warm-up and capture leave weights, statistics, optimisers and
random state as they found them, so a graphed run gives the numbers of an eager one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from engine.data import Batch
from engine.step import TrainingStep

Metrics = dict[str, Tensor]
Capture = Callable[[Callable[[], Metrics], TrainingStep], Callable[[], Metrics]]

WARM_UP_STEPS = 3


class GraphedStep:
    """Calls `step` through a captured graph; takes the batches that `step` takes, all of the first one's shape.

    A capture that fails falls back to calling `step` directly, with one warning and the same numbers.

    Args:
        step: the step; its device decides how it is captured when `capture` is not given.
        capture: how a function without arguments becomes its replay; by default a CUDA graph on a GPU and a pass-through
            on the CPU, which has no graphs.
    """

    def __init__(self, step: TrainingStep, *, capture: Capture | None = None) -> None:
        self._step = step
        self._capture = capture or (cuda_graph if step.device.type == "cuda" else pass_through)
        self._inputs: Batch | None = None
        self._replay: Callable[[], Metrics] | None = None

    def __call__(self, batch: Batch) -> Metrics:
        """Train on one batch; the scalars returned are overwritten by the next call."""
        if self._inputs is None:
            self._prepare(batch)
        if self._replay is None:
            return self._step(batch)
        assert self._inputs is not None
        for field in fields(batch):
            getattr(self._inputs, field.name).copy_(getattr(batch, field.name), non_blocking=True)
        return self._replay()

    def _prepare(self, batch: Batch) -> None:
        inputs = Batch(**{field.name: getattr(batch, field.name).clone() for field in fields(batch)})
        self._inputs = inputs
        before = self._step.snapshot()
        try:
            self._replay = self._capture(lambda: self._step(inputs), self._step)
        except Exception as reason:  # whatever an operation that cannot be captured raises
            warnings.warn(
                f"the training step cannot be captured in a graph ({type(reason).__name__}: {reason}); "
                "it runs uncaptured, which gives the same numbers and is slower",
                stacklevel=3,
            )
        self._step.restore(before)


def pass_through(function: Callable[[], Metrics], step: TrainingStep) -> Callable[[], Metrics]:
    """The CPU's stand-in for capture: warm up as a capture does, then call the function every time."""
    for _ in range(WARM_UP_STEPS):
        function()
    return function


def cuda_graph(function: Callable[[], Metrics], step: TrainingStep) -> Callable[[], Metrics]:
    """Capture on the current device after warm-up on a side stream; the step's random generator is registered."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):  # autotuning, cuDNN's choices, compilation and workspaces happen here
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(step.generator)
    # thread_local: a loader's thread may allocate while this thread captures
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        outputs = function()

    def replay() -> Metrics:
        graph.replay()
        return outputs

    return replay
