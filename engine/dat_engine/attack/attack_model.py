"""The model as the attack sees it: eval mode, no parameter wants a gradient, BatchNorm folded away, compute dtype.

A attack model is traced once (torch.fx) and refreshed in place from the live model before every attack, so that what runs
five or ten times per step holds neither BatchNorm nor anything that autograd would compute a weight gradient for.

It is compared with the model on the first images that it meets, and again on the first ones after the weights have changed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, fx, nn

from dat_engine.attack import folding, verification
from dat_engine.attack.fused_epilogues import FusedConvolution, fuse_epilogues
from dat_engine.attack.padded_stem import pad_input_channels
from dat_engine.attack.refreshing import Refresher
from dat_engine.model.as_found import device_of, dtype_of, in_eval_mode
from dat_engine.model.branches import branch_layout, branch_names, has_batchnorm
from dat_engine.model.copying import acts_as_its_type

Branching = Literal["folded", "grouped"]

_Versions = tuple[tuple[int, int], ...]

CHECKS = 2
"""How often an attack model compares itself with its model: as built, and after the first refresh that changed something."""


class AttackModel:
    """Differentiable-in-the-image, constant-in-the-weights copy of a model.

    An attack model whose logits differ from the model's is replaced by a plain copy of the model, with one warning that names
    the layer where they part. The comparison waits for the device, so it keeps out of captured and compiled regions.

    Args:
        model: a network whose ``forward(images)`` gives logits; branched or plain.
        layouts: the layouts that `logits` will be asked for; each a tuple of branches, one per equal group of the batch.
        dtype: compute dtype of weights and activations; logits come back in at least float32.
        memory_format: of the convolution weights and the images.
        branching: ``"folded"`` keeps one folded weight set per branch and runs the groups one by one (on a GPU side by
            side, on streams of their own); ``"grouped"`` runs all groups as one batch whose BatchNorm is an affine per
            group, with one set of weights for all layouts, which are the model's own (`weight_copies`). A model without
            BatchNorm has one copy of its weights and runs all groups as one batch either way.
        compiled: what every branch (or layout) is run through: torch.compile, with the caller's options; None: nothing.
        padded_stem: give convolutions of fewer than eight input channels eight, the others zero.
        fused_epilogues: have folded convolutions take residual and ReLU along (`dat_engine.attack.fused_epilogues`), but for
            a padded stem. A grouped attack model has an affine of each group between them, so it is refused there.
    """

    def __init__(
        self,
        model: nn.Module,
        layouts: Sequence[tuple[str, ...]] = (("base",),),
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        branching: Branching = "folded",
        compiled: Callable[[nn.Module], Callable[[Tensor], Tensor]] | None = None,
        padded_stem: bool = False,
        fused_epilogues: bool = False,
    ) -> None:
        if branching not in ("folded", "grouped"):
            raise ValueError(f"branching must be 'folded' or 'grouped'; got {branching!r}")
        if fused_epilogues and branching == "grouped":
            raise ValueError("epilogues are fused into folded convolutions, which a grouped attack model has none of")
        branched = has_batchnorm(model)
        unknown = {branch for layout in layouts for branch in layout} - set(branch_names(model))
        if branched and unknown:
            raise ValueError(f"the model has the branches {', '.join(branch_names(model))}, not {', '.join(unknown)}")
        self.dtype = dtype
        self.memory_format = memory_format
        self._model = model
        self._compiled = compiled
        self._padded_stem = padded_stem
        self._fused_epilogues = fused_epilogues
        self._refresher = Refresher()
        self._unfolded: dict[str, nn.Module] = {}
        self._streams: list[torch.cuda.Stream] = []
        self._modules = self._rewritten_modules(layouts, branching) if branched else self._one_copy(layouts)
        self._groups = self._callables()
        device = device_of(model)
        if device.type == "cuda" and branching == "folded":
            self._streams = [torch.cuda.Stream(device) for _ in range(max(map(len, layouts)) - 1)]
        self._device = device
        self._checks_left = CHECKS
        self._check_is_due = False
        self._checked_at: _Versions = ()
        self._refreshed_at: _Versions = ()
        self.refresh()

    def refresh(self) -> None:
        """Copy the live model's present weights and running statistics into the attack model, in place."""
        self._refresher()
        if self._checks_left and not _recording(self._device):
            self._refreshed_at = self._weights_now()
            self._check_is_due = self._refreshed_at != self._checked_at

    @property
    def weight_copies(self) -> dict[str, Tensor]:
        """By their names in the model, its parameters as they were at the last refresh, in the compute dtype, not folded.

        Of a grouped attack model those of convolutions and linear layers, which no part of the model reads but by calling
        the layer; else none.
        """
        return {
            f"{name}.{leaf}": parameter
            for name, layer in self._unfolded.items()
            if type(layer) in (nn.Conv2d, nn.Linear) and acts_as_its_type(layer)
            for leaf, parameter in layer.named_parameters()
        }

    @property
    def fused_convolutions(self) -> int:
        """How many convolutions, of all branches together, take their ReLU along; 0 where none is asked to or none can."""
        distinct = {id(module): module for module in self._modules.values()}
        return sum(isinstance(part, FusedConvolution) for module in distinct.values() for part in module.modules())

    def verify(self, images: Tensor) -> str | None:
        """Compare it, refreshed, with the model in eval mode on the first of `images` [B, C, H, W], on every branch.

        The model is left as it was found. A rewritten one that differs is replaced by a plain copy of the model.

        Returns:
            None where both agree (the plain copy, where the rewritten one had to go), else why not, in a sentence.

        Raises:
            ValueError: the model gives something else than logits [B, K].
        """
        self.refresh()
        return self._verify(images)

    def _verify(self, images: Tensor) -> str | None:
        self._check_is_due = False
        self._checked_at = self._refreshed_at
        self._checks_left = max(0, self._checks_left - 1)
        sample = images.detach()[: verification.CHECKED_IMAGES]
        with in_eval_mode(self._model):  # a random layer in the attack model draws from the global state too
            return self._settle(sample)

    def _settle(self, sample: Tensor) -> str | None:
        found = self._disagreement(sample)
        if found is not None and self._rewritten:
            warnings.warn(
                f"the folded copy of {type(self._model).__name__} is not used: {found}; the attack runs on an unfolded copy "
                "of the model, which is slower",
                stacklevel=5,
            )
            self._serve_plain_copies()
            found = self._disagreement(sample)
        return None if found is None else f"{type(self._model).__name__} cannot be copied for the attack: {found}"

    def logits(self, images: Tensor, layout: tuple[str, ...] = ("base",)) -> Tensor:
        """[B, C, H, W] in [0, 1], group i of `len(layout)` equal ones on branch layout[i] -> [B, K] in float32.

        float64 for a float64 attack model. Any float dtype and memory format is taken.
        """
        # a stale attack model is its owner's wish and cannot be compared; the next refresh makes the check due again
        if self._check_is_due and not _recording(self._device) and self._weights_now() == self._refreshed_at:
            problem = self._verify(images)
            if problem is not None:
                warnings.warn(f"{problem}; its examples are those of another network", stacklevel=2)
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

    def _rewritten_modules(
        self, layouts: Sequence[tuple[str, ...]], branching: Branching
    ) -> dict[tuple[str, ...], nn.Module]:
        """Folded or grouped modules by the layout that they serve; plain copies where the model cannot be traced."""
        graph = folding.trace(self._model)
        self._rewritten = graph is not None
        one_by_one = graph is None or branching == "folded"
        units = [(branch,) for layout in layouts for branch in layout] if one_by_one else list(layouts)
        settings = self._refresher, self.dtype, self.memory_format
        modules: dict[tuple[str, ...], nn.Module] = {}
        for unit in dict.fromkeys(units):
            if graph is None:
                modules[unit] = self._plain_copy(unit, self._refresher, self.dtype)
            elif one_by_one:
                modules[unit] = folding.folded(self._model, graph, unit[0], *settings)
            else:  # one set of weights serves every layout
                modules[unit] = folding.grouped(self._model, graph, unit, *settings, shared=self._unfolded)
        if self._padded_stem and self._rewritten:
            padded: dict[int, nn.Module] = {}  # one for all layouts that share the layer
            for module in modules.values():
                pad_input_channels(module, self._refresher, padded)
        if self._fused_epilogues:
            for module in modules.values():
                if isinstance(module, fx.GraphModule):
                    fuse_epilogues(module)
        return modules

    def _one_copy(self, layouts: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], nn.Module]:
        """Of a model without BatchNorm: nothing to fold, and nothing in which groups differ, so one batch in any layout."""
        self._rewritten = False
        return dict.fromkeys(layouts, self._plain_copy(layouts[0], self._refresher, self.dtype))

    def _callables(self) -> dict[tuple[str, ...], Callable[[Tensor], Tensor]]:
        if self._compiled is None:
            return dict(self._modules)
        distinct = {id(module): self._compiled(module) for module in self._modules.values()}
        return {unit: distinct[id(module)] for unit, module in self._modules.items()}

    def _plain_copy(self, unit: tuple[str, ...], refresher: Refresher, dtype: torch.dtype) -> nn.Module:
        return _PlainCopy(folding.frozen_copy(self._model, refresher, dtype, self.memory_format), unit)

    def _serve_plain_copies(self) -> None:
        self._refresher, self._unfolded = Refresher(), {}
        self._modules = {unit: self._plain_copy(unit, self._refresher, self.dtype) for unit in self._modules}
        self._groups = self._callables()
        self._rewritten = False
        self._refresher()

    def _weights_now(self) -> _Versions:
        """Changes when a weight or statistic is written to; known to the host, so that nothing waits for the device."""
        tensors = (*self._model.parameters(), *self._model.buffers())
        return tuple((id(tensor), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)

    @torch.no_grad()
    def _disagreement(self, sample: Tensor) -> str | None:
        """How and where the attack model differs from the model on some unit of branches; None where it does not."""
        for unit, module in self._modules.items():
            images = torch.cat([sample] * len(unit))
            own = verification.own_logits(self._model, images, unit)
            difference = self._difference(module, images, own)
            if not difference.tolerable and difference.share > self._share_of_rounding(unit, images, own):
                place = verification.parting_layer(self._model, module, images, unit, self.dtype)
                return (
                    f"its logits differ from those of the model in eval mode by {difference.share:.1%} of their spread "
                    f"({difference.tolerance:.1%} is what {_name(self.dtype)} may lose) on branch {', '.join(unit)}, "
                    f"first in {place}"
                )
        return None

    def _difference(self, module: nn.Module, images: Tensor, own: Tensor) -> verification.Difference:
        inputs = images.to(next(module.parameters(), images).dtype, memory_format=self.memory_format)
        return verification.compare(module(inputs), own, self.dtype)

    def _share_of_rounding(self, unit: tuple[str, ...], images: Tensor, own: Tensor) -> float:
        """How much rounding alone may cost on this model: four times what it costs without a rewritten layer.

        Where the attack model is a plain copy itself, any cost is rounding's as long as a copy in the model's precision agrees.
        """
        own_dtype = dtype_of(self._model)
        at_own_precision = torch.finfo(self.dtype).eps <= torch.finfo(own_dtype).eps
        if at_own_precision:
            if not self._rewritten or own_dtype == torch.float64:
                return 0.0
            dtype = torch.float64  # the model's own rounding, which a chaotic network amplifies as much as the copy's
        else:
            dtype = self.dtype if self._rewritten else own_dtype
        refresher = Refresher()
        copy = self._plain_copy(unit, refresher, dtype)
        refresher()
        try:
            given = copy(images.to(dtype, memory_format=self.memory_format))
        except RuntimeError:  # a model that insists on its dtype
            return 0.0
        cost = verification.compare(given, own, self.dtype if at_own_precision else dtype)
        if not self._rewritten:
            return math.inf if cost.tolerable else 0.0
        return 4 * cost.share if math.isfinite(cost.share) else 0.0


class _PlainCopy(nn.Module):
    """A frozen copy of a model, on the branches of `layout`."""

    def __init__(self, copy: nn.Module, layout: tuple[str, ...]) -> None:
        super().__init__()
        self.copy = copy
        self.layout = layout

    def forward(self, images: Tensor) -> Tensor:
        with branch_layout(self.copy, self.layout):
            return self.copy(images)


def _recording(device: torch.device) -> bool:
    """Whether operations are being captured in a graph or traced by the compiler, where the host may not wait."""
    if torch.compiler.is_compiling():
        return True
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
