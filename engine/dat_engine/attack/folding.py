"""A traced model rebuilt for the attack: eval-mode BatchNorm folded away or made one affine per group of the batch.

Both builders return a graph module without trainable parameters, and tell the refresher how its tensors are brought up to
date with the live model. Rewritten are layers of exactly torch's types, without hooks or parametrisations; every other layer
stays as it is, a copy in eval mode.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dat_engine.attack.refreshing import Refresher
from dat_engine.model.branches import BranchedBatchNorm, BranchSelection
from dat_engine.model.copying import acts_as_its_type, has_hooks, independent_copy
from dat_engine.model.synchronised import REPLACEABLE


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
        shape = (features.shape[0], -1) + (1,) * (features.ndim - 2)
        # of the features' own rank: through a view with an axis of groups, Inductor writes the gradient without channels_last
        # and transposes it back, one more kernel for each layer
        return torch.addcmul(
            self._of_every_image(self.shift, len(features)).view(shape),
            features,
            self._of_every_image(self.scale, len(features)).view(shape),
        )

    @staticmethod
    def _of_every_image(values: Tensor, count: int) -> Tensor:
        """[G, C] -> [count, C]: the group's values for each of its images."""
        groups, channels = values.shape
        return values[:, None].expand(groups, count // groups, channels).reshape(count, channels)


def trace(model: nn.Module) -> fx.Graph | None:
    """The model's graph in eval mode; None, with a warning, where the model's Python cannot be traced or folded."""
    try:
        if has_hooks(model):
            raise ValueError("it has hooks, which tracing passes over")
        graph = _Tracer().trace(independent_copy(model).eval())
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
    unusual = _called_unusually(calls)
    modules: dict[str, nn.Module] = {}
    folded_into: dict[str, str] = {}
    for node in calls:
        norm = _plain_norm(sources[node.target], branch)
        if norm is None or node.target in unusual or node.target in modules:
            continue
        producer = node.args[0]
        layer = sources.get(producer.target) if producer.op == "call_module" else None
        alone = len(producer.users) == 1 and called.count(producer.target) == 1 and called.count(node.target) == 1
        if alone and layer is not None and _folds(layer, norm):
            modules[producer.target] = _folded_layer(layer, norm, refresher, dtype, memory_format)
            folded_into[producer.target] = node.target
            node.replace_all_uses_with(producer)
            graph.erase_node(node)
        else:
            modules[node.target] = _affine([norm], refresher, dtype)
    return _assembled(graph, modules, folded_into, sources, (branch,), refresher, dtype, memory_format)


def grouped(
    model: nn.Module,
    traced: fx.Graph,
    layout: tuple[str, ...],
    refresher: Refresher,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    *,
    shared: dict[str, nn.Module],
) -> nn.Module:
    """All groups of a layout in one batch: convolutions see it whole, BatchNorm is an affine of each group.

    `shared` holds, by name, the copies of layers that are the same under every layout; what is missing there is added.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(traced, {}))
    sources = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    unusual = _called_unusually(calls)
    modules: dict[str, nn.Module] = {}
    for name in dict.fromkeys(str(node.target) for node in calls):
        norms = [_plain_norm(sources[name], branch) for branch in layout]
        plain = [norm for norm in norms if norm is not None]
        if len(plain) == len(layout) and name not in unusual:
            modules[name] = _affine(plain, refresher, dtype)
    for name in dict.fromkeys(str(node.target) for node in calls):
        if name in modules or any(isinstance(part, BranchedBatchNorm) for part in sources[name].modules()):
            continue
        if name not in shared:
            shared[name] = frozen_copy(sources[name], refresher, dtype, memory_format)
        modules[name] = shared[name]
    return _assembled(graph, modules, {}, sources, layout, refresher, dtype, memory_format)


def frozen_copy(
    layer: nn.Module, refresher: Refresher, dtype: torch.dtype, memory_format: torch.memory_format
) -> nn.Module:
    """A copy of `layer` in eval mode and compute dtype whose refresher copies the live tensors over."""
    copy = _frozen(independent_copy(layer).eval(), dtype, memory_format)
    live = [*layer.parameters(), *layer.buffers()]
    for target, source in zip([*copy.parameters(), *copy.buffers()], live, strict=True):
        refresher.copy(target, source)
    return copy


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        """Leaves stay whole: torch's own layers, BatchNorm of any kind, and whoever holds parameters itself."""
        if isinstance(module, BranchedBatchNorm | _BatchNorm):
            return True
        if any(isinstance(part, BranchedBatchNorm | _BatchNorm) for part in module.modules()):
            return False
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        return bool(own) or has_hooks(module) or super().is_leaf_module(module, module_qualified_name)


def _called_unusually(calls: list[fx.Node]) -> set[str]:
    """Names of the modules that are called, at least once, with anything but one positional argument."""
    return {str(node.target) for node in calls if node.kwargs or len(node.args) != 1}


def _plain_norm(module: nn.Module, branch: str) -> _BatchNorm | None:
    """The BatchNorm that `module` is in `branch`, where in eval mode that is an affine map of each channel, else None."""
    norm = module
    if isinstance(module, BranchedBatchNorm):
        if branch not in module:
            raise ValueError(f"the model has the branches {', '.join(module.keys())}, not {branch}")
        norm = module[branch]
    if not isinstance(norm, _BatchNorm) or type(norm) not in REPLACEABLE:
        return None
    if not acts_as_its_type(norm) or has_hooks(module):
        return None
    return None if norm.running_mean is None or norm.running_var is None else norm


def _folds(layer: nn.Module, norm: _BatchNorm) -> bool:
    if not acts_as_its_type(layer):
        return False
    if type(layer) is nn.Conv2d:
        return layer.out_channels == norm.num_features
    return type(layer) is nn.Linear and layer.out_features == norm.num_features


def _folded_layer(
    layer: nn.Conv2d | nn.Linear,
    norm: _BatchNorm,
    refresher: Refresher,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> nn.Module:
    result = independent_copy(layer)
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


def _assembled(
    graph: fx.Graph,
    modules: dict[str, nn.Module],
    folded_into: dict[str, str],
    sources: dict[str, nn.Module],
    layout: tuple[str, ...],
    refresher: Refresher,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> fx.GraphModule:
    """The graph module of what was rewritten and of copies of all other layers that the graph calls."""
    for name in dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module"):
        if name not in modules:
            copy = modules[name] = frozen_copy(sources[name], refresher, dtype, memory_format)
            if isinstance(copy, BranchedBatchNorm):
                copy.selection = BranchSelection(*layout)
    result = fx.GraphModule(_nested(modules), graph).eval()
    result.folded_into = folded_into  # type: ignore[assignment]
    return result


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
