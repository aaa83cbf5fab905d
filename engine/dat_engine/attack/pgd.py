"""The inner maximisation: projected sign-gradient ascent on an attack model.

The attack needs from its loss only dL/dlogits, given in closed form by the caller; for every loss that is a cross entropy
against fixed soft targets this is ``softmax(logits) - targets``. The sign of the image gradient does not depend on the
loss's scale, so the scale is free: fp16 uses it to stay in range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dat_engine.attack.attack_model import AttackModel
from dat_engine.errors import UserError
from dat_engine.profile.ranges import named_range
from dat_kernels import pgd_start, pgd_step

_Start = Literal["gaussian", "uniform"]
LogitGradient = Callable[[Tensor], Tensor]

FP16_MAGNITUDE = 256.0
"""Largest component of dL/dlogits in float16: high enough for small image gradients, far from 65,504."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackSettings:
    """One L-infinity attack: radius and step size in image units (images lie in [0, 1]), number of steps, start noise.

    Radius and step size may be float32 tensors on the images' device, 0-dim (a ramp made of the training progress) or [B]
    (one per image); their values are never read by the host, and must keep the bounds of the floats.
    `dataclasses.replace(settings, epsilon=...)` makes a step's own out of a method's.
    """

    epsilon: float | Tensor = 8 / 255
    step_size: float | Tensor = 2 / 255
    steps: int = 10
    start: _Start = "uniform"
    start_scale: float = 0.001
    """Standard deviation of a gaussian start; a uniform start fills the whole box and ignores it."""

    def __post_init__(self) -> None:
        for name in ("epsilon", "step_size"):
            _check_tensor(name, getattr(self, name))
        if not isinstance(self.epsilon, Tensor) and not 0 < self.epsilon <= 1:
            raise UserError(f"epsilon must lie in (0, 1], images being in [0, 1]; got {self.epsilon:g}")
        if not isinstance(self.step_size, Tensor) and not 0 < self.step_size < math.inf:
            raise UserError(f"step_size must be positive and finite; got {self.step_size:g}")
        if self.start not in get_args(_Start):
            raise UserError(f"start must be {' or '.join(get_args(_Start))}; got {self.start!r}")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1; got {self.steps}")
        if not 0 <= self.start_scale < math.inf:
            raise UserError(f"start_scale must be finite and not negative; got {self.start_scale:g}")


def draw_start(generator: torch.Generator) -> Tensor:
    """The seed of one attack's random start, int64, 0-dim on the generator's device; `pgd_attack` makes the noise of it."""
    return torch.empty((), dtype=torch.int64, device=generator.device).random_(generator=generator)


def per_image(values: Tensor) -> Tensor:
    """A scalar, or [B], in the shape that multiplies images [B, C, H, W]."""
    return values.reshape(-1, 1, 1, 1) if values.ndim else values


def pgd_attack(
    attack_model: AttackModel,
    images: Tensor,
    logit_gradient: LogitGradient,
    settings: AttackSettings,
    start: Tensor | None,
    *,
    layout: tuple[str, ...] = ("base",),
    active: Tensor | None = None,
    first_gradient: Tensor | None = None,
) -> Tensor:
    """Adversarial images ``x' <- clip01(clamp(x' + step_size * sign(g), x - epsilon, x + epsilon))``, `steps` times.

    Args:
        images: [B, C, H, W] in [0, 1]; a constant of the attack. Where groups are attacked together they are all of them,
            and values per image have one for each.
        logit_gradient: maps logits [B, K] to dL/dlogits [B, K] of the loss to be ascended, at any positive scale.
        start: of `draw_start`: the seed of noise as `settings` describe it, the same for a seed on every device and backend
            (`dat_kernels.pgd_start`). Or a floating perturbation of one's own, [B, C, H, W] in image units, a constant too.
            It is added to the images, and the sum clipped to [0, 1]. None: the attack starts from the images.
        layout: branch of every equal group of the batch; all groups are attacked in one pass.
        active: bool [B, C, H, W] that receives where dx'/dx = 1, for `along_projection`.
        first_gradient: dL/dimages [B, C, H, W] at the start, where it is known already (`CleanPass.gradient`); the first
            step then needs no pass of its own.

    Returns:
        [B, C, H, W] of the images' dtype, in [0, 1], detached. Source: Madry et al. 2018, eq. 2.3; METHOD section 4.

    Raises:
        UserError: a radius or step size per image, and not as many of them as there are images; a start that is neither a
            seed nor a perturbation of the images.
    """
    for name in ("epsilon", "step_size"):
        value = getattr(settings, name)
        if isinstance(value, Tensor) and value.ndim and len(value) != len(images):
            raise UserError(
                f"{name} has {len(value)} values and {len(images)} images are attacked; give one per image, for groups that "
                "are attacked together those of every group"
            )
    with named_range("attack"):
        # image, gradient and the model's input in one order of memory, in which a step is one run over all of them
        images = images.detach().contiguous(memory_format=attack_model.memory_format)
        adversarial = images if start is None else _started(images, settings, start)
        gradient = first_gradient
        inputs = _model_input(attack_model, adversarial)
        for index in range(settings.steps):
            last = index == settings.steps - 1
            if gradient is None:
                gradient = _gradient_at(attack_model, inputs, logit_gradient, layout)
            inputs = torch.empty_like(inputs, requires_grad=False)
            # the step writes what the next forward reads; in float32 that is the image itself
            separate = inputs.dtype != images.dtype
            adversarial = pgd_step(
                adversarial,
                gradient,
                images,
                step_size=settings.step_size,
                epsilon=settings.epsilon,
                out=inputs if not separate else adversarial if adversarial is not images else torch.empty_like(images),
                model_input=inputs if separate and not last else None,
                active=active if last else None,
            )
            gradient = None
    return adversarial


class CleanPass:
    """One forward of the images themselves that gives both f(x) and, later, the gradient at x for an attack's first step.

    Args:
        images, layout: as `pgd_attack` is going to be given them; constants.
    """

    def __init__(self, attack_model: AttackModel, images: Tensor, layout: tuple[str, ...] = ("base",)) -> None:
        self._attack_model = attack_model
        self._inputs = _model_input(attack_model, images.detach()).requires_grad_()
        with torch.enable_grad():
            self._logits = attack_model.logits(self._inputs, layout)

    @property
    def logits(self) -> Tensor:
        """f(x), [B, K], detached."""
        return self._logits.detach()

    def gradient(self, logit_gradient: LogitGradient) -> Tensor:
        """dL/dimages [B, C, H, W] at the images, in the attack model's dtype; to be asked for once."""
        return _back_to_images(self._attack_model, self._logits, self._inputs, logit_gradient)


def along_projection(images: Tensor, adversarial: Tensor, active: Tensor) -> Tensor:
    """`adversarial` as a function of `images` through the attack's last projection.

    Where a bound of the box around x was active in the last step, dx'/dx = 1, elsewhere 0; the clip to [0, 1] masks too.
    All three are [B, C, H, W]; `active` is the one that `pgd_attack` filled.
    """
    return _Projection.apply(images, adversarial, active)


def image_gradient(
    attack_model: AttackModel, images: Tensor, logit_gradient: LogitGradient, layout: tuple[str, ...]
) -> Tensor:
    """dL/dimages [B, C, H, W] in the attack model's dtype; `logit_gradient` gives the loss's dL/dlogits; see `pgd_attack`."""
    return _gradient_at(attack_model, _model_input(attack_model, images), logit_gradient, layout)


def _started(images: Tensor, settings: AttackSettings, start: Tensor) -> Tensor:
    """The image that the attack starts from, clipped to [0, 1]; `start` as `pgd_attack` takes it."""
    _check_start(images, start)
    if start.dtype != torch.int64:
        return (images + start.detach()).clamp_(0.0, 1.0)
    scale = settings.start_scale if settings.start == "gaussian" else settings.epsilon
    return pgd_start(images, noise=settings.start, scale=scale, seed=start)


def _model_input(attack_model: AttackModel, images: Tensor) -> Tensor:
    return images.to(dtype=attack_model.dtype, memory_format=attack_model.memory_format, copy=True)


def _gradient_at(
    attack_model: AttackModel, inputs: Tensor, logit_gradient: LogitGradient, layout: tuple[str, ...]
) -> Tensor:
    """`image_gradient` for images that are in the attack model's dtype and memory format."""
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        logits = attack_model.logits(inputs, layout)
    return _back_to_images(attack_model, logits, inputs, logit_gradient)


def _back_to_images(attack_model: AttackModel, logits: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Tensor:
    ascent = logit_gradient(logits.detach())
    if attack_model.dtype == torch.float16:
        # only the sign of each sample's gradient counts, so each may be scaled into float16's range
        ascent = ascent * (FP16_MAGNITUDE / ascent.abs().amax(dim=1, keepdim=True).clamp_min(1e-30))
    return torch.autograd.grad(logits, inputs, ascent)[0]


def _check_tensor(name: str, value: float | Tensor) -> None:
    """What the host knows of a tensor among the settings; its values stay on the device."""
    if isinstance(value, Tensor) and (value.ndim > 1 or value.dtype != torch.float32):
        raise UserError(
            f"{name} must be a number, or a float32 tensor without dimensions or of shape [B]; got {value.dtype} of shape "
            f"{tuple(value.shape)}"
        )


def _check_start(images: Tensor, start: object) -> None:
    if isinstance(start, Tensor):
        is_seed = start.dtype == torch.int64 and start.ndim == 0
        widened = torch.promote_types(start.dtype, images.dtype)
        if is_seed or (start.is_floating_point() and widened == images.dtype and start.shape == images.shape):
            return
        given = f"{start.dtype} of shape {tuple(start.shape)}"
    else:
        given = f"a {type(start).__name__}"
    raise UserError(
        f"start must be the seed that draw_start(generator) gives, int64 without dimensions, or a perturbation of shape "
        f"{tuple(images.shape)} that {images.dtype} holds; got {given}"
    )


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, adversarial: Tensor, active: Tensor) -> Tensor:
        ctx.save_for_backward(active)
        return adversarial.view_as(adversarial)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (active,) = ctx.saved_tensors
        return gradients[0] * active, None, None
