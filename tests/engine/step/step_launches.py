"""How many launches a whole compiled DAT step makes on a GPU that is not there: counted in code and calls, never run.

The step is taken with fake tensors. What torch.compile is given becomes Inductor's code for a GPU (`inductor_counts`), and
what runs outside of it is seen operation by operation. Counted, each as often as it runs in one step:

- Inductor's kernels and its library calls: a convolution or matrix product is one, a convolution's backward pass one for
  each gradient;
- operations outside of compiled code, one each, views and allocations none: the generator's, noise, the guard, metrics;
- operations on lists (fused optimizer, `torch._foreach_*`) by the tables of ATen's MultiTensorApply.cuh;
- this project's own kernels, one each, as they are at 32 pixels.

Not counted: what a library launches besides (transposes, fills and reductions of cuDNN and cuBLAS, a BatchNorm of several
kernels), the data, and what a graph's replay copies in. Autocast is the CPU's. Inductor may fuse otherwise
in another release: what the tests hold was found with torch 2.11 and 2.15 alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dat import models
from dat.methods import METHODS
from dat.methods.task import Task
from dat_engine.data import Augmentation, Batch
from dat_engine.model.precision import Precision
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from tests.engine.step.inductor_counts import Graph, writing_for_a_gpu

# torch's multi_tensor_apply: elements of a block, tensors of a launch by the number of lists, blocks of a launch
_CHUNK, _TENSORS, _BLOCKS = 65536, (110, 64, 48, 36, 30), 320
_NOTHING = (
    "empty",
    "new_empty",
    "_unsafe_view",
    "promote_types",
    "device",
    "_record_function",
    "lift_fresh",
    "as_strided_",
)


@dataclass(frozen=True, kw_only=True)
class StepLaunches:
    """Of one step."""

    graphs: list[Graph]
    operations: Counter[str]
    """Launches of what runs outside of compiled code, by the name of the operation."""

    @property
    def compiled(self) -> int:
        return sum(graph.runs * (len(graph.code.launches) + graph.code.library_launches) for graph in self.graphs)

    @property
    def total(self) -> int:
        return self.compiled + self.operations.total()

    def graph(self, *, backward: bool, images: int, runs: int) -> Graph:
        """The only one of that kind."""
        kind = (backward, images, runs)
        (found,) = (graph for graph in self.graphs if (graph.backward, graph.images, graph.runs) == kind)
        return found


def dat_step_launches(*, images: int = 128, branching: Any = "grouped") -> StepLaunches:
    """Of ResNet-18 on CIFAR-10's shapes in bf16, with the method's own settings."""
    graphs: list[Graph] = []
    mode = Watching(allow_non_fake_inputs=True)
    torch._dynamo.reset()
    compile_ = partial(torch.compile, backend=writing_for_a_gpu(graphs, mode.pausing))
    with (
        torch._inductor.config.patch(force_disable_caches=True),
        mock.patch.object(torch, "compile", lambda function, *, options, **others: compile_(function, **others)),
    ):
        step = _dat_step(branching)
        with mode, step.switches.on():
            batch = _batch(images)
            step._step(batch, None)  # compiles
            for graph in graphs:
                graph.runs = 0
            with mode.watching():
                step._step(batch, None)
    torch._dynamo.reset()
    return StepLaunches(graphs=graphs, operations=mode.launches)


def _dat_step(branching: Any) -> TrainingStep:
    entry = METHODS["dat"]
    crop = Augmentation(padding=4, flip=True)
    task = Task(num_classes=10, image_shape=(3, 32, 32), epsilon=8 / 255, augmentation=crop)
    step = TrainingStep(
        models.build("resnet18", num_classes=10, branches=("base", "mix")),
        entry.create(entry.settings, task),
        optimizer=SGDSettings(),
        precision=Precision(name="bf16", channels_last=True),
        branching=branching,
        compiled=True,
    )
    assert step.attack_model is not None
    step.attack_model._checks_left, step.attack_model._check_is_due = 0, False  # there are no values to compare
    return step


def _batch(images: int) -> Batch:
    shape = (images, 3, 32, 32)
    numbers = torch.empty(images, dtype=torch.int64)
    return Batch(images=torch.empty(shape), originals=torch.empty(shape), targets=numbers, indices=numbers)


class Watching(FakeTensorMode):
    """Fake tensors, whose mode torch.compile knows; a mode of another kind would keep compiled code from being run."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.launches: Counter[str] = Counter()
        self._watches, self._depth = False, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._watches and not self._depth:  # an operation may be made of others
            self.launches[str(func)] += _launches(func, args)
        self._depth += 1
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._depth -= 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._watches = True
        yield
        self._watches = False

    @contextmanager
    def pausing(self) -> Iterator[None]:
        before, self._watches = self._watches, False
        yield
        self._watches = before


def _launches(operation: Any, arguments: Sequence[Any]) -> int:
    name = operation._schema.name.partition("::")[2]
    gives_views = any(given.alias_info and not given.alias_info.is_write for given in operation._schema.returns)
    if gives_views or name.startswith(_NOTHING):
        return 0
    if "_foreach_" in name or name.startswith("_fused_"):
        lists = [value for value in arguments if isinstance(value, list) and value and isinstance(value[0], Tensor)]
        gives_a_list = not name.endswith("_")
        return list_launches([tensor.numel() for tensor in lists[0]], len(lists) + gives_a_list)
    return 1


def list_launches(sizes: Sequence[int], lists: int) -> int:
    """How often multi_tensor_apply launches for tensors of these sizes in so many lists."""
    launches = tensors = blocks = 0
    for size in sizes:
        chunks = -(-size // _CHUNK)
        tensors += bool(chunks)
        for chunk in range(chunks):
            blocks += 1
            last = chunk == chunks - 1
            if (tensors == _TENSORS[lists - 1] and last) or blocks == _BLOCKS:
                launches, blocks, tensors = launches + 1, 0, 0 if last else 1
    return launches + bool(blocks)
