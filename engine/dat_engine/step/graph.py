"""A whole training step as one CUDA graph launch.

Everything that changes from step to step is a tensor that the graph reads: the batch (static buffers), the learning rate,
the random state (registered with the graph), the loss scale. Warm-up and capture leave weights, statistics, optimizers and
random state as they found them, so a graphed run gives the numbers of an eager one.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from dat_engine import private_torch
from dat_engine.data import Batch
from dat_engine.step.training_step import TrainingStep

Metrics = dict[str, Tensor]
Capture = Callable[[Callable[[], Metrics], TrainingStep], Callable[[], Metrics]]

WARM_UP_STEPS = 3


class GraphedStep:
    """Calls `step` through a captured graph; takes the batches that `step` takes, all of the first one's shape.

    A step that cannot be captured is called directly, with one warning and the same numbers.

    Args:
        step: the step; its device decides how it is captured when `capture` is not given.
        capture: how a function without arguments becomes its replay; by default a CUDA graph on a GPU and a pass-through
            on the CPU, which has no graphs.
    """

    def __init__(self, step: TrainingStep, *, capture: Capture | None = None) -> None:
        self._step = step
        self._capture = capture or (cuda_graph if step.device.type == "cuda" else pass_through)
        self._tried = False
        self._inputs: Batch | None = None
        self._replay: Callable[[], Metrics] | None = None

    @property
    def captured(self) -> bool:
        """Whether steps are replayed; False before the first one and after a capture that failed."""
        return self._replay is not None

    def __call__(self, batch: Batch) -> Metrics:
        """Train on one batch; the scalars returned are overwritten by the next call.

        Raises:
            ValueError: a batch of another shape than the first one.
            DataError: the first batch cannot be trained on (`dat_engine.step.first_batch`).
        """
        if not self._tried:
            self._step.check_if_first(batch)
            self._tried = True
            self._prepare(batch)
        if self._replay is None:
            return self._step(batch)
        assert self._inputs is not None
        for field in fields(batch):
            static, given = getattr(self._inputs, field.name), getattr(batch, field.name)
            if static is None and given is None:
                continue
            if static is None or given is None:
                raise ValueError(f"{field.name} must be there in every batch, or in none")
            if given.shape != static.shape:  # copy_ would repeat a batch of one image
                raise ValueError(
                    f"{field.name} have the shape {tuple(given.shape)}, but this step was captured for "
                    f"{tuple(static.shape)}; keep to one batch size, or run the step uncaptured"
                )
            static.copy_(given, non_blocking=True)
        return self._replay()

    def _prepare(self, batch: Batch) -> None:
        if self._step.why_not_captured is not None:
            _warn(self._step.why_not_captured)
            return
        copies: dict[str, Any] = {}
        for field in fields(batch):
            tensor = getattr(batch, field.name)
            copies[field.name] = None if tensor is None else tensor.clone()
        self._inputs = inputs = Batch(**copies)
        before = self._step.snapshot()
        try:
            self._replay = self._capture(lambda: self._step(inputs), self._step)
        except Exception as reason:  # whatever an operation that cannot be captured raises
            _warn(f"{type(reason).__name__}: {reason}")
        self._step.restore(before)


def _warn(reason: str) -> None:
    warnings.warn(
        f"the training step cannot be captured in a graph ({reason}); "
        "it runs uncaptured, which gives the same numbers and is slower",
        stacklevel=4,
    )


def pass_through(function: Callable[[], Metrics], step: TrainingStep) -> Callable[[], Metrics]:
    """The CPU's stand-in for capture: warm up as a capture does, then call the function every time."""
    for _ in range(WARM_UP_STEPS):
        function()
    return function


def cuda_graph(function: Callable[[], Metrics], step: TrainingStep) -> Callable[[], Metrics]:
    """Capture on the step's device after warm-up on a side stream; the step's random generator is registered."""
    with torch.cuda.device(step.device):
        here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):  # autotuning, cuDNN's choices, compilation and workspaces happen here
                function()
        here.wait_stream(stream)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        graph.register_generator_state(step.generator)
        cause: Exception | None = None
        try:
            # thread_local: a loader's thread may allocate while this thread captures
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                try:
                    outputs = function()
                except Exception as error:
                    cause = error
                    raise
        except Exception as error:
            torch.cuda.set_stream(here)
            _abandon(graph, pool, step)
            # ending a broken capture raises an error of its own, which does not say what broke it
            raise (cause or error) from None

    def replay() -> Metrics:
        graph.replay()
        return outputs

    return replay


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], step: TrainingStep) -> None:
    """Undo what a capture that failed leaves behind in torch 2.11, so that the step can run uncaptured.

    The allocator goes on waiting for the end of the capture, and until then keeps every block that a second stream has
    used: a prefetching loader would fill the memory. Random generators, the default one too, refuse every further draw.
    """
    index = step.generator.device.index
    graph.reset()
    with contextlib.suppress(RuntimeError):  # a newer torch has ended the allocation in reset()
        private_torch.end_allocation_to_pool(index, pool)
        private_torch.release_pool(index, pool)
    for generator in (step.generator, torch.cuda.default_generators[index]):
        fresh = torch.Generator(generator.device)
        fresh.set_state(generator.get_state())
        generator.graphsafe_set_state(fresh.graphsafe_get_state())
