"""The model as the attack sees it: eval mode, no parameter wants a gradient, BatchNorm folded away, compute dtype.

A frozen view is traced once (torch.fx) and refreshed in place from the live model before every attack, so that what runs
five or ten times per step holds neither BatchNorm nor anything that autograd would compute a weight gradient for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.branches import BranchedBatchNorm, branch_layout, branch_names


class ChannelAffine(nn.Module):
    """``scale[c] * features + shift[c]``: a BatchNorm in eval mode that no convolution precedes."""

    def __init__(self, channels: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels, device=device, dtype=dtype))
        self.register_buffer("shift", torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, features: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (features.ndim - 2)
        return torch.addcmul(self.shift.view(shape), features, self.scale.view(shape))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, BranchedBatchNorm) or super().is_leaf_module(module, qualified_name)


class FrozenView:
    """Differentiable-in-the-image, constant-in-the-weights view of a model, one callable per branch.

    Args:
        model: a network whose ``forward(images)`` gives logits; branched or plain.
        branches: the branches that will be attacked.
        dtype: compute dtype of weights and activations; logits come back in at least float32.
        memory_format: of the convolution weights and the images.
    """

    def __init__(
        self,
        model: nn.Module,
        branches: Sequence[str] = ("base",),
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.dtype = dtype
        self.memory_format = memory_format
        self._refreshers: list[Callable[[], None]] = []
        self._forwards: dict[str, Callable[[Tensor], Tensor]] = {}
        graph = _traced(model)
        for branch in branches:
            self._forwards[branch] = self._unfolded(model, branch) if graph is None else self._folded(model, graph, branch)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the live model's present weights and running statistics into the view, in place."""
        for refresh in self._refreshers:
            refresh()

    def logits(self, images: Tensor, branch: str = "base") -> Tensor:
        """[B, C, H, W] in [0, 1] of any float dtype -> [B, K] in float32 (float64 for a float64 view)."""
        inputs = images.to(dtype=self.dtype, memory_format=self.memory_format)
        logits = self._forwards[branch](inputs)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _folded(self, model: nn.Module, traced: fx.Graph, branch: str) -> nn.Module:
        graph = fx.Graph()
        graph.output(graph.graph_copy(traced, {}))
        modules: dict[str, nn.Module] = {}
        sources = dict(model.named_modules())
        calls = [node for node in graph.nodes if node.op == "call_module"]
        called = [node.target for node in calls]
        for node in calls:
            norm = _selected(sources[node.target], branch)
            if not isinstance(norm, _BatchNorm):
                continue
            producer = node.args[0]
            convolution = sources.get(producer.target) if producer.op == "call_module" else None
            alone = convolution is not None and len(producer.users) == 1 and called.count(producer.target) == 1
            if alone and isinstance(convolution, nn.Conv2d | nn.Linear) and called.count(node.target) == 1:
                modules[producer.target] = self._folded_layer(convolution, norm)
                node.replace_all_uses_with(producer)
                graph.erase_node(node)
            else:
                modules[node.target] = self._affine(norm)
        for name in called:
            if name not in modules and not isinstance(_selected(sources[name], branch), _BatchNorm):
                modules[name] = self._copied(sources[name])
        return fx.GraphModule(_nested(modules), graph).eval()

    def _folded_layer(self, layer: nn.Conv2d | nn.Linear, norm: _BatchNorm) -> nn.Module:
        folded = deepcopy(layer)
        channels = layer.weight.shape[0]
        folded.bias = nn.Parameter(layer.weight.new_zeros(channels))
        self._freeze(folded)
        shape = (-1,) + (1,) * (layer.weight.ndim - 1)

        def refresh() -> None:
            scale, shift = _scale_and_shift(norm)
            folded.weight.copy_(layer.weight * scale.view(shape))
            folded.bias.copy_(shift if layer.bias is None else shift + layer.bias * scale)

        self._refreshers.append(refresh)
        return folded

    def _affine(self, norm: _BatchNorm) -> nn.Module:
        reference = next(norm.buffers())
        affine = ChannelAffine(norm.num_features, reference.device, self.dtype)

        def refresh() -> None:
            scale, shift = _scale_and_shift(norm)
            affine.scale.copy_(scale)
            affine.shift.copy_(shift)

        self._refreshers.append(refresh)
        return affine

    def _copied(self, layer: nn.Module) -> nn.Module:
        frozen = deepcopy(layer).eval()
        self._freeze(frozen)
        live = [*layer.parameters(), *layer.buffers()]
        copies = [*frozen.parameters(), *frozen.buffers()]
        if live:
            self._refreshers.append(lambda: torch._foreach_copy_(copies, live))
        return frozen

    def _freeze(self, layer: nn.Module) -> None:
        layer.requires_grad_(False).to(dtype=self.dtype)
        if any(parameter.ndim == 4 for parameter in layer.parameters()):
            layer.to(memory_format=self.memory_format)

    def _unfolded(self, model: nn.Module, branch: str) -> Callable[[Tensor], Tensor]:
        frozen = deepcopy(model).eval()
        self._freeze(frozen)
        live = [*model.parameters(), *model.buffers()]
        copies = [*frozen.parameters(), *frozen.buffers()]
        self._refreshers.append(lambda: torch._foreach_copy_(copies, live))

        def forward(images: Tensor) -> Tensor:
            with branch_layout(frozen, (branch,)):
                return frozen(images)

        return forward


def _traced(model: nn.Module) -> fx.Graph | None:
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


def _selected(module: nn.Module, branch: str) -> nn.Module:
    if not isinstance(module, BranchedBatchNorm):
        return module
    if branch not in module:
        raise ValueError(f"the model has the branches {', '.join(branch_names(module))}, not {branch}")
    return module[branch]


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be frozen; use track_running_stats=True")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
        return scale, norm.bias - norm.running_mean * scale
    return scale, -norm.running_mean * scale


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
