"""The step and the random start of projected gradient descent, literally, in plain PyTorch: the oracle.

Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; the start with small
Gaussian noise is that of TRADES (Zhang et al., ICML 2019) and DAT.
"""

import torch
from torch import Tensor

from dat_kernels.pgd_step import philox


def serves(images: Tensor, *others: Tensor) -> str | None:
    return None


def forward(
    adversarial: Tensor,
    gradient: Tensor,
    images: Tensor,
    step_size: float | Tensor,
    epsilon: float | Tensor,
    out: Tensor,
    model_input: Tensor | None,
    active: Tensor | None,
) -> None:
    """out = clip01(min(max(x' + step sign(g), x - eps), x + eps)); see `op.pgd_step` for model_input and active."""
    stepped, low, high, boxed = step_in_box(adversarial, gradient, images, step_size, epsilon)
    result = boxed.clamp(0, 1)
    if active is not None:
        active.copy_(bound_is_active(stepped, low, high, boxed))
    if model_input is not None:
        model_input.copy_(result)
    out.copy_(result)


def step_in_box(
    adversarial: Tensor, gradient: Tensor, images: Tensor, step_size: float | Tensor, epsilon: float | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x' + step sign(g), the box's two bounds, and the first within the others; in float32 at least."""
    compute = torch.promote_types(images.dtype, torch.float32)
    step_size, epsilon = _over_pixels(step_size), _over_pixels(epsilon)
    x = images.to(compute)
    stepped = adversarial.to(compute) + step_size * gradient.sign().to(compute)
    low, high = x - epsilon, x + epsilon
    return stepped, low, high, torch.min(torch.max(stepped, low), high)


def _over_pixels(value: float | Tensor) -> float | Tensor:
    """One value per sample [B] as [B, 1, 1, 1]; a single one as it is."""
    return value.view(-1, 1, 1, 1) if isinstance(value, Tensor) and value.dim() == 1 else value


def bound_is_active(stepped: Tensor, low: Tensor, high: Tensor, boxed: Tensor) -> Tensor:
    """Where the result moves with the image: a bound of the box cut the step off and clip01 leaves that bound alone.

    A bound at exactly 0 or 1 is left alone, as in torch.clamp's derivative. A step that lands on the bound exactly was
    not cut off; there releases of PyTorch differ, and newer ones give one half to the step and to the bound.
    """
    return ((stepped < low) | (stepped > high)) & (boxed >= 0) & (boxed <= 1)


def start(
    images: Tensor,
    noise: str,
    scale: float | Tensor,
    epsilon: float | Tensor | None,
    seed: int | Tensor,
    offset: int | Tensor,
    out: Tensor,
) -> None:
    """out = clip01(x + scale n), kept within epsilon of x first where epsilon is given; n from `philox`."""
    compute = torch.promote_types(images.dtype, torch.float32)
    draw = philox.gaussian if noise == "gaussian" else philox.uniform
    x = images.to(compute)
    result = x + _over_pixels(scale) * draw(images.numel(), seed, offset, images.device).view(images.shape)
    if epsilon is not None:
        bound = _over_pixels(epsilon)
        result = torch.min(torch.max(result, x - bound), x + bound)
    out.copy_(result.clamp(0, 1))
