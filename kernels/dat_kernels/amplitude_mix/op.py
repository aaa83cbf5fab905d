"""`amplitude_mix`: argument checks, dispatch to a backend, registration with torch.library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dat_kernels import arguments, backends
from dat_kernels.amplitude_mix import reference
from dat_kernels.batching import register_batching

OPERATION = "amplitude_mix"


def amplitude_mix(
    images: Tensor,
    amplitude: Tensor,
    lam: Tensor,
    *,
    crop_offsets: Tensor | None = None,
    flip: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Blend each image with the image that has a generated amplitude and its own phase.

    mixed = clip01((1 - lam) x + lam Re IFFT2(A_G U)), U = X/|X| (1 where X = 0), X = FFT2(x) per channel, followed by
    out[b, c, y, x] = mixed[b, c, y + dy, x_ + dx] (0 outside the image), x_ = W - 1 - x where flip[b].

    Args:
        images: [B, C, H, W] floating, in [0, 1], any strides. The result has its dtype and memory format.
        amplitude: [B, C, H, W] floating, at least 0, frequencies in FFT order ((0, 0) is DC).
        lam: [B] floating, in [0, 1]. Checked on the CPU; a GPU asserts it in the kernel, without waiting, where
            TRITON_DEBUG=1 turns device assertions on.
        crop_offsets: [B, 2] int32 or int64, (dy, dx).
        flip: [B] bool.
        backend: see `dat_kernels.backends`.

    Computation is in float32 (float64 where images are). The gradient reaches amplitude, images and lam where asked,
    through the clip (bounds kept) and, for images, through the phase; it cannot be differentiated again.
    torch.func.vmap works; torch.func.grad does not see formulas registered with torch.library: use torch.autograd.grad.

    Raises:
        TypeError: something is not a tensor, or has the wrong dtype.
        ValueError: shapes or devices disagree, lam outside [0, 1], a backend that is unknown or cannot serve.

    Source: DAT, arXiv 2410.12307, the amplitude mix that makes the distractor view.
    """
    arguments.check_images("images", images)
    arguments.check_like("amplitude", amplitude, "images", images)
    arguments.check_floating("amplitude", amplitude)
    arguments.check_tensor("lam", lam)
    arguments.check_floating("lam", lam)
    batch = images.shape[0]
    if tuple(lam.shape) != (batch,):
        raise ValueError(f"lam has shape {tuple(lam.shape)}; it must be ({batch},), one weight per sample")
    arguments.check_device("lam", lam, "images", images)
    arguments.check_crop_and_flip(crop_offsets, flip, batch, "images", images)
    backends.check_name(backend)
    return _mix(images, amplitude, lam, crop_offsets, flip, backend)


@torch.library.custom_op("dat_kernels::amplitude_mix", mutates_args=())
def _mix(
    images: Tensor,
    amplitude: Tensor,
    lam: Tensor,
    crop_offsets: Tensor | None,
    flip: Tensor | None,
    backend: str | None,
) -> Tensor:
    if images.shape[0] == 0:
        return torch.empty_like(images)
    if lam.device.type == "cpu":
        low, high = (value.item() for value in lam.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"lam ranges from {low:g} to {high:g}; every weight must lie in [0, 1]")
    implementation = backends.choose(OPERATION, backend, images, amplitude, lam)
    return implementation.forward(images, amplitude, lam, crop_offsets, flip)


@torch.library.custom_op("dat_kernels::amplitude_mix_backward_amplitude", mutates_args=())
def _backward_amplitude(
    grad: Tensor,
    images: Tensor,
    amplitude: Tensor,
    lam: Tensor,
    crop_offsets: Tensor | None,
    flip: Tensor | None,
    backend: str | None,
) -> Tensor:
    if images.shape[0] == 0:
        return torch.empty_like(amplitude)
    implementation = backends.choose(OPERATION, backend, images, amplitude, lam)
    return implementation.backward_amplitude(grad, images, amplitude, lam, crop_offsets, flip)


@torch.library.custom_op("dat_kernels::amplitude_mix_backward_all", mutates_args=())
def _backward_all(
    grad: Tensor, images: Tensor, amplitude: Tensor, lam: Tensor, crop_offsets: Tensor | None, flip: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    if images.shape[0] == 0:
        return torch.empty_like(images), torch.empty_like(amplitude), torch.empty_like(lam)
    return reference.backward_all(grad, images, amplitude, lam, crop_offsets, flip)


@_mix.register_fake
def _(images: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(images)


@_backward_amplitude.register_fake
def _(grad: Tensor, images: Tensor, amplitude: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(amplitude)


@_backward_all.register_fake
def _(grad: Tensor, images: Tensor, amplitude: Tensor, lam: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(images), torch.empty_like(amplitude), torch.empty_like(lam)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, amplitude, lam, crop_offsets, flip, ctx.backend = inputs
    ctx.save_for_backward(images, amplitude, lam, crop_offsets, flip)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_images, wants_amplitude, wants_lam = ctx.needs_input_grad[:3]
    grads: tuple[Tensor | None, ...] = (None, None, None)
    if wants_images or wants_lam:
        # the generator's training needs the amplitude's gradient alone, so only that one has fast kernels
        grads = _backward_all(grad, *ctx.saved_tensors)
    elif wants_amplitude:
        grads = (None, _backward_amplitude(grad, *ctx.saved_tensors, ctx.backend), None)
    return (*grads, None, None, None)


_mix.register_autograd(_differentiate, setup_context=_keep_inputs)

for _operation in (_mix, _backward_amplitude, _backward_all):
    register_batching(_operation)
