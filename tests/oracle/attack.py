"""The inner maximisation, step by step, with the start noise given."""

from collections.abc import Callable

import torch
from torch import Tensor


def clip01(images: Tensor) -> Tensor:
    """Clip to [0, 1]; the gradient stays 1 at the bounds."""
    return images.clamp(0.0, 1.0)


def project(proposal: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """clip01(clamp(proposal, x-eps, x+eps)); where a bound of the box is active the result moves with `images`."""
    lower, upper = images - epsilon, images + epsilon
    boxed = torch.where(proposal > upper, upper, torch.where(proposal < lower, lower, proposal))
    return clip01(boxed)


def projection_mask(proposal: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Bool: where d project/d images = 1. The box is strictly exceeded, and the bound lies in [0, 1]."""
    lower, upper = images - epsilon, images + epsilon
    above = (proposal > upper) & (upper >= 0) & (upper <= 1)
    below = (proposal < lower) & (lower >= 0) & (lower <= 1)
    return above | below


def perturb(
    *,
    logits_of: Callable[[Tensor], Tensor],
    objective: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    epsilon: float,
    step_size: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Adversarial images and the mask d adversarial/d images of the last step, both [B, C, H, W].

    Each step maximises objective(f(x), f(x')), f = logits_of in eval mode, f(x) computed anew as the authors do.
    The result stays attached to `images` through the last projection; detach it to train without that path.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; an attack needs at least 1")
    adversarial, mask = start.detach(), torch.zeros_like(start, dtype=torch.bool)
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        value = objective(logits_of(images.detach()), logits_of(adversarial))
        (gradient,) = torch.autograd.grad(value, [adversarial])
        proposal = adversarial.detach() + step_size * gradient.sign()
        adversarial = project(proposal, images, epsilon)
        mask = projection_mask(proposal, images.detach(), epsilon)
    return adversarial, mask
