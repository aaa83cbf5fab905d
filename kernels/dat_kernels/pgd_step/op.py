"""`pgd_step` and `pgd_start`: argument checks, dispatch to a backend, registration with torch.library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dat_kernels import arguments, backends
from dat_kernels.batching import register_batching
from dat_kernels.pgd_step import reference

OPERATION = "pgd_step"
NOISES = ("gaussian", "uniform")


def pgd_step(
    adversarial: Tensor,
    gradient: Tensor,
    images: Tensor,
    *,
    step_size: float | Tensor,
    epsilon: float | Tensor,
    out: Tensor | None = None,
    model_input: Tensor | None = None,
    active: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Step along the gradient's sign, back into the box around the image, back into [0, 1].

    x'' = clip01(min(max(x' + step_size sign(g), x - epsilon), x + epsilon)). In float32 the result equals that eager
    expression bit for bit; sign(0) and sign(NaN) are 0, any other NaN passes through.

    Args:
        adversarial: [B, C, H, W] floating: x', in [0, 1].
        gradient: [B, C, H, W] floating, any dtype: ascent direction at x'.
        images: [B, C, H, W], dtype of adversarial: x, in [0, 1].
        step_size: at least 0; a float, or a float32 tensor on the images' device, 0-dim or [B] with one per sample. The
            values of a tensor are checked on the CPU and never read by the host on a GPU.
        epsilon: half the width of the box, likewise. Where it is 0 the box is the image itself, and so is the result.
        out: where to write the result, dtype of adversarial; may be `adversarial` itself. Returned.
        model_input: also receives the result, in its own dtype and memory format.
        active: bool; receives where the result moves with the image (d x''/d x = 1): a bound of the box cut the step
            off and clip01 leaves that bound alone.
        backend: see `dat_kernels.backends`.

    Without out, model_input and active the result is differentiable in adversarial and images, as torch.clamp is,
    except that a step which lands on a bound exactly counts as the step's own.

    Raises:
        TypeError: something has the wrong type or dtype.
        ValueError: shapes or devices disagree, a step size or epsilon is negative or NaN, a backend is unknown or
            cannot serve.

    Source: Madry et al., ICLR 2018.
    """
    arguments.check_images("images", images)
    for name, tensor in (("adversarial", adversarial), ("gradient", gradient)):
        arguments.check_like(name, tensor, "images", images)
        arguments.check_floating(name, tensor)
    arguments.check_same_dtype("adversarial", adversarial, "images", images)
    step, step_tensor = arguments.split_per_sample("step_size", step_size, images)
    bound, bound_tensor = arguments.split_per_sample("epsilon", epsilon, images)
    backends.check_name(backend)
    if out is None and model_input is None and active is None:
        return _step(adversarial, gradient, images, step, step_tensor, bound, bound_tensor, backend)
    if out is None:
        out = torch.empty_like(images)
    arguments.check_like("out", out, "images", images)
    arguments.check_same_dtype("out", out, "images", images)
    if model_input is not None:
        arguments.check_like("model_input", model_input, "images", images)
        arguments.check_floating("model_input", model_input)
    if active is not None:
        arguments.check_like("active", active, "images", images)
        if active.dtype != torch.bool:
            raise TypeError(f"active has dtype {active.dtype}; it must be torch.bool")
    if torch.is_grad_enabled() and (adversarial.requires_grad or images.requires_grad):
        raise ValueError(
            "pgd_step with out, model_input or active cannot be differentiated; detach adversarial and images, "
            "or leave the three out"
        )
    _step_into(
        adversarial,
        gradient.detach(),
        images,
        step,
        step_tensor,
        bound,
        bound_tensor,
        out,
        model_input,
        active,
        backend,
    )
    return out


def pgd_start(
    images: Tensor,
    *,
    noise: str,
    scale: float | Tensor,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    epsilon: float | Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The random start of an attack: clip01(x + scale n), kept within epsilon of x first where epsilon is given.

    The noise is made inside the kernel and depends on (seed, offset, element's index in NCHW order) alone, so it is the
    same for every backend, memory format and launch; `dat_kernels.pgd_step.philox` defines it.

    Args:
        images: [B, C, H, W] floating, in [0, 1].
        noise: "gaussian", n standard normal (backends agree within 2e-6 in n), or "uniform", n in [-1, 1) (bit for
            bit).
        scale: at least 0; a float, or a float32 tensor on the images' device, 0-dim or [B] with one per sample.
        seed: key of the generator; an int of 64 bits or a 0-dim int64 tensor on the same device (CUDA graphs).
        offset: number of the stream under that key, likewise; use another one for every draw.
        epsilon: likewise; where it is 0 the start is the image itself.
        backend: see `dat_kernels.backends`.

    The result is a constant to autograd.

    Raises:
        TypeError, ValueError: as `pgd_step`.
    """
    arguments.check_images("images", images)
    if noise not in NOISES:
        raise ValueError(f"noise is {noise!r}; it must be one of {NOISES}")
    width, width_tensor = arguments.split_per_sample("scale", scale, images)
    key, key_tensor = arguments.split_counter("seed", seed, images)
    stream, stream_tensor = arguments.split_counter("offset", offset, images)
    bound, bound_tensor = None, None
    if epsilon is not None:
        bound, bound_tensor = arguments.split_per_sample("epsilon", epsilon, images)
    backends.check_name(backend)
    return _start(
        images.detach(),
        noise,
        width,
        width_tensor,
        bound,
        bound_tensor,
        key,
        key_tensor,
        stream,
        stream_tensor,
        backend,
    )


@torch.library.custom_op("dat_kernels::pgd_step", mutates_args=())
def _step(
    adversarial: Tensor,
    gradient: Tensor,
    images: Tensor,
    step_size: float,
    step_size_tensor: Tensor | None,
    epsilon: float,
    epsilon_tensor: Tensor | None,
    backend: str | None,
) -> Tensor:
    out = torch.empty_like(images)
    _run(adversarial, gradient, images, step_size, step_size_tensor, epsilon, epsilon_tensor, out, None, None, backend)
    return out


@torch.library.custom_op("dat_kernels::pgd_step_into", mutates_args=("out", "model_input", "active"))
def _step_into(
    adversarial: Tensor,
    gradient: Tensor,
    images: Tensor,
    step_size: float,
    step_size_tensor: Tensor | None,
    epsilon: float,
    epsilon_tensor: Tensor | None,
    out: Tensor,
    model_input: Tensor | None,
    active: Tensor | None,
    backend: str | None,
) -> None:
    _run(
        adversarial, gradient, images, step_size, step_size_tensor, epsilon, epsilon_tensor, out, model_input, active,
        backend,
    )  # fmt: skip


def _run(
    adversarial: Tensor,
    gradient: Tensor,
    images: Tensor,
    step_size: float,
    step_size_tensor: Tensor | None,
    epsilon: float,
    epsilon_tensor: Tensor | None,
    out: Tensor,
    model_input: Tensor | None,
    active: Tensor | None,
    backend: str | None,
) -> None:
    if images.numel() == 0:
        return
    written = [tensor for tensor in (model_input, active) if tensor is not None]
    implementation = backends.choose(OPERATION, backend, images, adversarial, gradient, out, *written)
    implementation.forward(
        adversarial,
        gradient,
        images,
        _number("step_size", step_size, step_size_tensor),
        _number("epsilon", epsilon, epsilon_tensor),
        out,
        model_input,
        active,
    )


@torch.library.custom_op("dat_kernels::pgd_start", mutates_args=())
def _start(
    images: Tensor,
    noise: str,
    scale: float,
    scale_tensor: Tensor | None,
    epsilon: float | None,
    epsilon_tensor: Tensor | None,
    seed: int,
    seed_tensor: Tensor | None,
    offset: int,
    offset_tensor: Tensor | None,
    backend: str | None,
) -> Tensor:
    out = torch.empty_like(images)
    if images.numel() == 0:
        return out
    backends.choose(OPERATION, backend, images).start(
        images,
        noise,
        _number("scale", scale, scale_tensor),
        _number("epsilon", epsilon, epsilon_tensor),
        seed if seed_tensor is None else seed_tensor,
        offset if offset_tensor is None else offset_tensor,
        out,
    )
    return out


def _number(name: str, number: float | None, tensor: Tensor | None) -> float | Tensor | None:
    if tensor is None:
        return number
    arguments.check_values(name, tensor)
    return tensor


@_step.register_fake
def _(adversarial: Tensor, gradient: Tensor, images: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(images)


@_start.register_fake
def _(images: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(images)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    adversarial, gradient, images, step_size, step_size_tensor, epsilon, epsilon_tensor, _ = inputs
    ctx.step_size, ctx.epsilon = step_size, epsilon
    ctx.save_for_backward(adversarial, gradient, images, step_size_tensor, epsilon_tensor)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    adversarial, gradient, images, step_size_tensor, epsilon_tensor = ctx.saved_tensors
    step_size = ctx.step_size if step_size_tensor is None else step_size_tensor
    epsilon = ctx.epsilon if epsilon_tensor is None else epsilon_tensor
    stepped, low, high, boxed = reference.step_in_box(adversarial, gradient, images, step_size, epsilon)
    of_images = reference.bound_is_active(stepped, low, high, boxed)
    of_adversarial = (stepped >= low) & (stepped <= high) & (boxed >= 0) & (boxed <= 1)
    return grad * of_adversarial, None, grad * of_images, *(None,) * 5


_step.register_autograd(_differentiate, setup_context=_keep_inputs)
register_batching(_step)
