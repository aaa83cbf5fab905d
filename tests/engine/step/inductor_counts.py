"""How many kernels torch.compile makes for a GPU that is not there: Inductor's code for a CUDA device, read and not run.

The function is traced with fake tensors on the CPU; then every tensor of its graphs is said to lie on a CUDA device of
compute capability 9.0, and Inductor writes the code that it would run there. Nothing is compiled by Triton, so counts are
launches and not times; library calls (convolutions, matrix products) stand beside them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map

GPU = torch.device("cuda", 0)
# what Inductor asks of a device, with the figures of an H200
_PROPERTIES = SimpleNamespace(
    name="H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=140 * 2**30,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    L2_cache_size=50 * 2**20,
    gcnArchName="",
)


@dataclass(frozen=True, kw_only=True)
class Code:
    """What Inductor wrote for one graph."""

    source: str

    @property
    def launches(self) -> list[str]:
        """Name of the generated kernel of every launch, in order."""
        return re.findall(r"(\w+)\.run\(", self._calls)

    @property
    def library_calls(self) -> list[str]:
        return re.findall(r"(?:extern_kernels\.|torch\.ops\.)([\w.]+)\(", self._calls)

    @property
    def library_launches(self) -> int:
        """One for every library call, and for a convolution's backward pass one for every gradient that is asked for."""
        masks = re.findall(r"aten\.convolution_backward\.default\(.*\[(\w+, \w+, \w+)\]\)", self._calls)
        return len(self.library_calls) + sum(mask.count("True") - 1 for mask in masks)

    @property
    def _calls(self) -> str:
        return self.source[self.source.index("def call(") :]


@dataclass(kw_only=True)
class Graph:
    """One graph of a function: its forward, or its backward."""

    code: Code
    backward: bool
    images: int
    """How many are in its batch; 0 where it is given none."""
    runs: int = 0


class _Written(Exception):
    """Ends a compilation when its source is there."""


def generated(function: Callable[..., Any], *inputs: Tensor) -> list[Code]:
    """Inductor's code of `function` for a GPU: the forward graph and, where an input or weight wants a gradient, the backward.

    `function` may be a module; its tensors and the `inputs` are fake ones (`fake`). Skips the test where this release of
    torch asks the device for something that is not pretended here.
    """
    graphs: list[Graph] = []
    torch._dynamo.reset()
    try:
        with torch._inductor.config.patch(force_disable_caches=True):
            outputs = torch.compile(function, backend=writing_for_a_gpu(graphs), dynamic=False, fullgraph=True)(*inputs)
            if outputs.requires_grad:
                outputs.sum().backward()
    finally:
        torch._dynamo.reset()
    return [graph.code for graph in graphs]


def writing_for_a_gpu(
    graphs: list[Graph], running: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Callable[[torch.fx.GraphModule, list[Any]], Any]:
    """A backend of torch.compile that adds to `graphs` what it compiles, and runs it operation by operation.

    `running` is entered around every run of a graph. Skips the test as `generated` does.
    """
    from torch._inductor import compile_fx

    def lowered(graph: torch.fx.GraphModule, examples: list[Any], **options: Any) -> Callable[[list[Any]], Any]:
        own = copy.deepcopy(graph)
        try:
            code = _code_of(_on_gpu(graph), [_gpu_twin(example) for example in examples], options)
        except Exception as reason:  # Inductor's insides differ between releases
            pytest.skip(
                f"torch {torch.__version__} cannot write code for a pretended GPU: {type(reason).__name__}: {reason}"
            )
        graphs.append(Graph(code=code, backward=bool(options.get("is_backward")), images=_images(examples)))
        return _boxed(own, graphs[-1], running)

    return lambda graph, examples: compile_fx.compile_fx(graph, examples, inner_compile=lowered)


@contextmanager
def fake(module: nn.Module) -> Iterator[FakeTensorMode]:
    """Within the block there are no values: the tensors of `module` become fake ones, for good, and so are all new ones."""
    mode = FakeTensorMode()
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                twin = mode.from_tensor(parameter.detach())
                part._parameters[name] = nn.Parameter(twin, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer)
    with mode:
        yield mode


def _code_of(graph: torch.fx.GraphModule, examples: list[Any], options: dict[str, Any]) -> Code:
    from torch._inductor import compile_fx
    from torch._inductor.graph import GraphLowering

    sources: list[str] = []

    def write(lowering: Any) -> Any:
        written = lowering.codegen()
        written = written[0] if isinstance(written, tuple) else written
        sources.append(getattr(written, "value", written))
        raise _Written

    with _pretended_gpu(), mock.patch.object(GraphLowering, "compile_to_module", write):
        try:
            compile_fx.compile_fx_inner(graph, examples, **options)
        except Exception:
            if not sources:
                raise
    return Code(source=sources[0])


def _on_gpu(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    for node in graph.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = tree_map(_gpu_twin, node.meta["val"])
        node.meta.pop("tensor_meta", None)
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": GPU}
    return graph


def _gpu_twin(value: Any) -> Any:
    if not isinstance(value, FakeTensor):
        return value
    meta = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return FakeTensor(value.fake_mode, meta, GPU)


def _images(examples: list[Any]) -> int:
    """Images and activations are larger, pixel by pixel, than the filters of a convolution."""
    pixels = {example.shape[2:].numel(): len(example) for example in examples if getattr(example, "ndim", 0) == 4}
    return pixels[max(pixels)] if pixels else 0


def _boxed(
    graph: torch.fx.GraphModule, known: Graph, running: Callable[[], AbstractContextManager[object]]
) -> Callable[[list[Any]], Any]:
    def run(arguments: list[Any]) -> Any:
        values = list(arguments)
        arguments.clear()
        known.runs += 1
        with running():
            return graph(*values)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


@contextmanager
def _pretended_gpu() -> Iterator[None]:
    from torch._dynamo.device_interface import CudaInterface
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    torch._C._ensureCUDADeviceGuardSet()
    _forget_what_was_found()
    answers: dict[Any, dict[str, Callable[..., Any]]] = {
        torch.cuda: {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_properties": lambda device=None: _PROPERTIES,
            "get_device_capability": lambda device=None: (9, 0),
            "is_current_stream_capturing": lambda: False,
            "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
            "set_rng_state": lambda state, device=None: None,
            "_exchange_device": lambda index: 0,
            "_maybe_exchange_device": lambda index: 0,
            "_lazy_init": lambda: None,
        },
        CudaInterface: {
            "get_device_properties": staticmethod(lambda device=None: _PROPERTIES),
            "current_device": staticmethod(lambda: 0),
            "device_count": staticmethod(lambda: 1),
        },
        CudaInterface.Worker: {"get_device_properties": staticmethod(lambda device=None: _PROPERTIES)},
        torch._C: {"_conv_determine_backend_memory_format": _memory_format_of_cudnn},
    }
    utilities = SimpleNamespace(
        get_device_properties=lambda index: {"max_shared_mem": 232448, "multiprocessor_count": 132}
    )
    with ExitStack() as stack:
        for owner, functions in answers.items():
            for name, function in functions.items():
                stack.enter_context(mock.patch.object(owner, name, function))
        stack.enter_context(mock.patch.object(driver, "_active", driver.__dict__.get("_active"), create=True))
        driver.set_active(
            SimpleNamespace(
                get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0, utils=utilities
            )
        )
        try:
            yield
        finally:
            _forget_what_was_found()


def _memory_format_of_cudnn(images: Tensor, weight: Tensor, backend: object) -> torch.memory_format:
    """In which cuDNN gives its results; asked without a GPU, torch answers for kernels of its own, which know one format."""
    either = any(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (images, weight))
    return torch.channels_last if either else torch.contiguous_format


def _forget_what_was_found() -> None:
    """torch keeps its answers about Triton and devices: another test of this process may have asked on the CPU alone."""
    from torch.utils import _triton

    for function in vars(_triton).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
