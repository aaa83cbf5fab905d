"""The model as the attack sees it: eval mode, no parameter wants a gradient, BatchNorm folded away, compute dtype.

A attack model is traced once (torch.fx) and refreshed in place from the live model before every attack, so that what runs
five or ten times per step holds neither BatchNorm nor anything that autograd would compute a weight gradient for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dat_engine.attack import folding
from dat_engine.attack.refreshing import Refresher
from dat_engine.model.branches import branch_layout, has_batchnorm

Branching = Literal["folded", "grouped"]


class AttackModel:
    """Differentiable-in-the-image, constant-in-the-weights view of a model.

    Args:
        model: a network whose ``forward(images)`` gives logits; branched or plain.
        layouts: the layouts that `logits` will be asked for; each a tuple of branches, one per equal group of the batch.
        dtype: compute dtype of weights and activations; logits come back in at least float32.
        memory_format: of the convolution weights and the images.
        branching: ``"folded"`` keeps one folded weight set per branch and runs the groups one by one (on a GPU side by
            side, on streams of their own); ``"grouped"`` runs all groups as one batch whose BatchNorm is an affine per
            group. A model without BatchNorm has one copy of its weights and runs all groups as one batch either way.
        compiled: run every branch (or layout) through torch.compile.
    """

    def __init__(
        self,
        model: nn.Module,
        layouts: Sequence[tuple[str, ...]] = (("base",),),
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        branching: Branching = "folded",
        compiled: bool = False,
    ) -> None:
        if branching not in ("folded", "grouped"):
            raise ValueError(f"branching must be 'folded' or 'grouped'; got {branching!r}")
        self.dtype = dtype
        self.memory_format = memory_format
        self._refresher = Refresher()
        self._groups: dict[tuple[str, ...], Callable[[Tensor], Tensor]] = {}
        self._streams: list[torch.cuda.Stream] = []
        if not has_batchnorm(model):  # nothing to fold, and nothing in which groups differ: one batch in any layout
            shared: Callable[[Tensor], Tensor] = folding.frozen_copy(model, self._refresher, dtype, memory_format)
            shared = torch.compile(shared, dynamic=False) if compiled else shared
            self._groups = dict.fromkeys(layouts, shared)
            self.refresh()
            return
        graph = folding.trace(model)
        one_by_one = graph is None or branching == "folded"
        units = [(branch,) for layout in layouts for branch in layout] if one_by_one else list(layouts)
        forward: Callable[[Tensor], Tensor]
        for unit in dict.fromkeys(units):
            if graph is None:
                forward = self._unfolded(model, unit[0])
            elif len(unit) == 1:
                forward = folding.folded(model, graph, unit[0], self._refresher, dtype, memory_format)
            else:
                forward = folding.grouped(model, graph, unit, self._refresher, dtype, memory_format)
            self._groups[unit] = torch.compile(forward, dynamic=False) if compiled else forward
        device = next(model.parameters()).device
        if device.type == "cuda" and branching == "folded":
            self._streams = [torch.cuda.Stream(device) for _ in range(max(map(len, layouts)) - 1)]
        self.refresh()

    def refresh(self) -> None:
        """Copy the live model's present weights and running statistics into the view, in place."""
        self._refresher()

    def logits(self, images: Tensor, layout: tuple[str, ...] = ("base",)) -> Tensor:
        """[B, C, H, W] in [0, 1], group i of `len(layout)` equal ones on branch layout[i] -> [B, K] in float32.

        float64 for a float64 view. Any float dtype and memory format is taken.
        """
        inputs = images.to(dtype=self.dtype, memory_format=self.memory_format)
        if layout in self._groups:
            logits = self._groups[layout](inputs)
        else:
            logits = self._side_by_side(inputs.chunk(len(layout)), layout)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _side_by_side(self, groups: Sequence[Tensor], layout: tuple[str, ...]) -> Tensor:
        """Every group through its branch's weights; on a GPU all but the first on a stream of its own.

        The backward pass runs each group on the stream of its forward; in a CUDA graph these are parallel branches.
        """
        if not self._streams:
            return torch.cat([self._groups[(branch,)](group) for group, branch in zip(groups, layout, strict=True)])
        here = torch.cuda.current_stream(groups[0].device)
        others = []
        for stream, group, branch in zip(self._streams, groups[1:], layout[1:], strict=False):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                others.append(self._groups[(branch,)](group))
        results = [self._groups[(layout[0],)](groups[0])]
        for stream, result in zip(self._streams, others, strict=False):
            here.wait_stream(stream)
            result.record_stream(here)
            results.append(result)
        return torch.cat(results)

    def _unfolded(self, model: nn.Module, branch: str) -> Callable[[Tensor], Tensor]:
        copy = folding.frozen_copy(model, self._refresher, self.dtype, self.memory_format)

        def forward(images: Tensor) -> Tensor:
            with branch_layout(copy, (branch,)):
                return copy(images)

        return forward
