"""A traced model rebuilt for the attack: eval-mode BatchNorm folded away or made one affine per group of the batch.

Both builders return a graph module without trainable parameters, and tell the refresher how its tensors are brought up to
date with the live model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dat_engine.attack.refreshing import Refresher
from dat_engine.model.branches import BranchedBatchNorm


class GroupAffine(nn.Module):
    """``scale[g, c] * features + shift[g, c]`` for each of G equal groups of the batch: BatchNorm in eval mode."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norms: list[_BatchNorm], dtype: torch.dtype) -> None:
        super().__init__()
        device = next(norms[0].buffers()).device
        shape = (len(norms), norms[0].num_features)
        self.register_buffer("scale", torch.ones(shape, device=device, dtype=dtype))
        self.register_buffer("shift", torch.zeros(shape, device=device, dtype=dtype))

    def forward(self, features: Tensor) -> Tensor:
        groups, channels = self.scale.shape
        shape = (groups, 1, channels) + (1,) * (features.ndim - 2)
        grouped = features.unflatten(0, (groups, -1))
        return torch.addcmul(self.shift.view(shape), grouped, self.scale.view(shape)).flatten(0, 1)


def trace(model: nn.Module) -> fx.Graph | None:
    """The model's graph in eval mode; None, with a warning, where the model's Python cannot be traced or folded."""
    try:
        graph = _Tracer().trace(deepcopy(model).eval())
    except Exception as reason:  # fx raises whatever the untraceable code happens to raise
        problem = f"{type(reason).__name__}: {reason}"
    else:
        loose = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
        if not loose:
            return graph
        problem = f"it reads {', '.join(loose)} outside a layer"
    warnings.warn(
        f"{type(model).__name__} cannot be traced ({problem}); its BatchNorm stays unfolded in the attack, "
        "which is slower and gives the same numbers",
        stacklevel=4,
    )
    return None


def folded(
    model: nn.Module,
    traced: fx.Graph,
    branch: str,
    refresher: Refresher,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> nn.Module:
    """One branch, its BatchNorm folded into the convolution or linear layer before it, where there is one."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(traced, {}))
    sources = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    called = [str(node.target) for node in calls]
    modules: dict[str, nn.Module] = {}
    for node in calls:
        norm = _of_branch(sources[node.target], branch)
        if not isinstance(norm, _BatchNorm):
            continue
        producer = node.args[0]
        layer = sources.get(producer.target) if producer.op == "call_module" else None
        alone = len(producer.users) == 1 and called.count(producer.target) == 1 and called.count(node.target) == 1
        if alone and isinstance(layer, nn.Conv2d | nn.Linear):
            modules[producer.target] = _folded_layer(layer, norm, refresher, dtype, memory_format)
            node.replace_all_uses_with(producer)
            graph.erase_node(node)
        else:
            modules[node.target] = _affine([norm], refresher, dtype)
    _copy_the_rest(modules, called, sources, refresher, dtype, memory_format)
    return fx.GraphModule(_nested(modules), graph).eval()


def grouped(
    model: nn.Module,
    traced: fx.Graph,
    layout: tuple[str, ...],
    refresher: Refresher,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> nn.Module:
    """All groups of a layout in one batch: convolutions see it whole, BatchNorm is an affine of each group."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(traced, {}))
    sources = dict(model.named_modules())
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    modules: dict[str, nn.Module] = {}
    for name in called:
        norms = [_of_branch(sources[name], branch) for branch in layout]
        if isinstance(norms[0], _BatchNorm):
            modules[name] = _affine(norms, refresher, dtype)  # type: ignore[arg-type]
    _copy_the_rest(modules, called, sources, refresher, dtype, memory_format)
    return fx.GraphModule(_nested(modules), graph).eval()


def frozen_copy(
    layer: nn.Module, refresher: Refresher, dtype: torch.dtype, memory_format: torch.memory_format
) -> nn.Module:
    """A copy of `layer` in eval mode and compute dtype whose refresher copies the live tensors over."""
    copy = _frozen(deepcopy(layer).eval(), dtype, memory_format)
    live = [*layer.parameters(), *layer.buffers()]
    for target, source in zip([*copy.parameters(), *copy.buffers()], live, strict=True):
        refresher.copy(target, source)
    return copy


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(module, BranchedBatchNorm) or super().is_leaf_module(module, module_qualified_name)


def _of_branch(module: nn.Module, branch: str) -> nn.Module:
    if not isinstance(module, BranchedBatchNorm):
        return module
    if branch not in module:
        raise ValueError(f"the model has the branches {', '.join(module.keys())}, not {branch}")
    return module[branch]


def _folded_layer(
    layer: nn.Conv2d | nn.Linear,
    norm: _BatchNorm,
    refresher: Refresher,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> nn.Module:
    result = deepcopy(layer)
    bias = result.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]))
    _frozen(result, dtype, memory_format)
    scale, shift = refresher.scale_and_shift(norm)
    factor = scale.view((-1,) + (1,) * (layer.weight.ndim - 1))

    def refresh() -> None:
        torch.mul(layer.weight, factor, out=result.weight)
        if layer.bias is not None:
            torch.addcmul(shift, layer.bias, scale, out=bias)

    refresher.then(refresh)
    if layer.bias is None:
        refresher.copy(bias, shift)
    return result


def _affine(norms: list[_BatchNorm], refresher: Refresher, dtype: torch.dtype) -> GroupAffine:
    affine = GroupAffine(norms, dtype)
    for group, norm in enumerate(norms):
        scale, shift = refresher.scale_and_shift(norm)
        refresher.copy(affine.scale[group], scale)
        refresher.copy(affine.shift[group], shift)
    return affine


def _copy_the_rest(
    modules: dict[str, nn.Module],
    called: Iterable[str],
    sources: dict[str, nn.Module],
    refresher: Refresher,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> None:
    for name in called:
        if name not in modules and not isinstance(sources[name], BranchedBatchNorm | _BatchNorm):
            modules[name] = frozen_copy(sources[name], refresher, dtype, memory_format)


def _frozen(layer: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format) -> nn.Module:
    layer.requires_grad_(False).to(dtype=dtype)
    for parameter in layer.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
    return layer


def _nested(modules: dict[str, nn.Module]) -> nn.Module:
    root = nn.Module()
    for path, module in modules.items():
        parent = root
        *parents, leaf = path.split(".")
        for name in parents:
            if not hasattr(parent, name):
                parent.add_module(name, nn.Module())
            parent = getattr(parent, name)
        parent.add_module(leaf, module)
    return root
