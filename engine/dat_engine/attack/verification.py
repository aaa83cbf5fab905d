"""Does an attack model give the model's own logits and image gradients? Where not: how far off it is, and from which layer on.

Rewriting a model is right for the layers that the rewriter knows; a model may hold anything. So nobody trusts an attack model
that has not been compared with its model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from dat_engine.errors import UserError
from dat_engine.model.as_found import dtype_of, in_eval_mode
from dat_engine.model.branches import branch_layout

CHECKED_IMAGES = 8

TOLERANCES = {torch.float64: 1e-7, torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Difference of logits that a dtype's rounding may cause, as a share of the logits' spread. A randomised RegNet reaches 1.2e-3
in float32, common networks 1e-6; one that amplifies rounding more is measured against what rounding costs the model itself."""

GRADIENT_TOLERANCE = 0.1
"""Difference of image gradients, as a share of their length. Rounding moves activations over kinks, so it cannot be small; a
lost layer moves a gradient by about its own length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Two results of one network that should be equal."""

    share: float
    """Root mean square difference, as a share of the logits' spread over the classes."""
    tolerance: float

    @property
    def tolerable(self) -> bool:
        return self.share <= self.tolerance


def own_logits(model: nn.Module, images: Tensor, layout: tuple[str, ...]) -> Tensor:
    """The model's logits [B, K] in eval mode, group i of `images` on branch layout[i]; the model is left as it was found.

    Raises:
        UserError: the model gives something else than a tensor [B, K].
    """
    with in_eval_mode(model), torch.no_grad():
        return logits_of(model, images, layout)


def logits_of(model: nn.Module, images: Tensor, layout: tuple[str, ...]) -> Tensor:
    """``model(images)`` as it stands, on the branches of `layout`, with images converted to the model's dtype.

    Raises:
        UserError: the model gives something else than a tensor [B, K].
    """
    with branch_layout(model, layout):
        logits = model(images.to(dtype_of(model)))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(
            f"{type(model).__name__} in eval mode returns {found} for {len(images)} images; it must return their logits, "
            "one tensor [B, K]: wrap it in a module that does"
        )
    return logits


def compare(given: Tensor, expected: Tensor, dtype: torch.dtype) -> Difference:
    """Logits [B, K] against logits [B, K], computed in `dtype`; rows may differ by a constant, as softmax allows.

    A logit that is not finite must be so in both.
    """
    given, expected = given.detach().double(), expected.detach().double()
    if given.shape != expected.shape:
        return Difference(share=float("inf"), tolerance=0.0)
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(given)):
        return Difference(share=float("inf"), tolerance=0.0)
    given, expected = given.where(finite, 0.0), expected.where(finite, 0.0)
    magnitude = float(expected.abs().amax()) if expected.numel() else 0.0
    if expected.ndim == 2 and expected.shape[1] > 1:
        given, expected = (logits - logits.mean(dim=1, keepdim=True) for logits in (given, expected))
    spread = float(expected.square().mean().sqrt())
    error = float((given - expected).square().mean().sqrt())
    rounding = 8 * torch.finfo(dtype).eps * magnitude
    scale = max(spread, rounding, 1e-30)
    return Difference(share=error / scale, tolerance=TOLERANCES[dtype] + rounding / scale)


def parting_layer(
    model: nn.Module, rewritten: nn.Module, images: Tensor, layout: tuple[str, ...], dtype: torch.dtype
) -> str:
    """Name of the first layer, in the order of calls, after which `rewritten` differs from `model`; else where it may lie."""
    own: dict[str, list[Tensor]] = {}
    seen: list[tuple[str, Tensor]] = []
    with torch.no_grad():
        with in_eval_mode(model), _outputs(model, lambda name, output: own.setdefault(name, []).append(output)):
            logits_of(model, images, layout)
        with _outputs(rewritten, lambda name, output: seen.append((name, output))):
            rewritten(images.to(dtype))
    names = getattr(rewritten, "folded_into", {}) if isinstance(rewritten, fx.GraphModule) else {}
    calls: dict[str, int] = {}
    for name, output in seen:
        live = names.get(name, name)
        call = calls[name] = calls.get(name, -1) + 1
        if call < len(own.get(live, ())) and not _same(output, own[live][call], dtype):
            return f"layer {live} ({type(model.get_submodule(live)).__name__})"
    return "what happens between its layers"


def _same(given: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    if given.shape != expected.shape:
        return False
    return compare(given.flatten(), expected.flatten(), dtype).tolerable


@contextmanager
def _outputs(model: nn.Module, record: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Within the block `record` is told name and output of every call of a layer below `model`."""

    def hook(name: str) -> Callable[..., None]:
        def take(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                record(name, output.detach().clone())  # a ReLU in place overwrites it

        return take

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def unsteadiness(model: nn.Module, images: Tensor, layout: tuple[str, ...]) -> str | None:
    """Why an image has no logits of its own under `model` in eval mode, as a sentence; None where it has.

    Either they change from call to call, or they depend on the other images of the batch.
    """
    name, dtype = type(model).__name__, dtype_of(model)
    with in_eval_mode(model), torch.no_grad():
        once = logits_of(model, images, layout)
        again = logits_of(model, images, layout)
        if not compare(again, once, dtype).tolerable:
            return (
                f"{name} gives other logits for the same images every time, even in eval mode (dropout that ignores the "
                "mode, or a random defence); one number per image cannot be reported: make it deterministic first"
            )
        if len(images) > 1:
            part = logits_of(model, images[: len(images) // 2], layout)
            if not compare(part, once[: len(part)], dtype).tolerable:
                return (
                    f"{name}'s logits of an image depend on the other images of the batch even in eval mode (BatchNorm "
                    "without running statistics, say); its accuracy depends on the batch size: give it running statistics"
                )
    return None


def gradient_difference(
    model: nn.Module, image_gradient: Callable[[Tensor, Tensor], Tensor], images: Tensor, layout: tuple[str, ...]
) -> float:
    """Root mean square, over the images, of the relative difference of an attack's image gradient to the model's own.

    Both are gradients of one random direction in the logits, which no saturated softmax can hide.

    Args:
        image_gradient: maps images [B, C, H, W] and dL/dlogits [B, K] to dL/dimages, as the attack computes it.

    Raises:
        UserError: the model's logits are no differentiable function of the images.
    """
    name = type(model).__name__
    inputs = images.detach().clone().requires_grad_()
    with in_eval_mode(model), torch.enable_grad():
        logits = logits_of(model, inputs, layout)
        direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        try:
            (own,) = torch.autograd.grad(logits, inputs, direction)
        except RuntimeError as error:
            raise UserError(
                f"{name}'s logits have no gradient in the images ({str(error).splitlines()[0]}), so no gradient attack "
                "can find anything; evaluate natural accuracy only, or give a differentiable model"
            ) from error
    given = image_gradient(images, direction)
    own, given = own.double().flatten(1), given.double().flatten(1)
    lengths = own.norm(dim=1)
    errors = (given - own).norm(dim=1) / lengths.clamp_min(1e-30)
    errors = torch.where((lengths == 0) & (given.norm(dim=1) == 0), 0.0, errors)
    return float(errors.clamp_max(1e6).square().mean().sqrt())
