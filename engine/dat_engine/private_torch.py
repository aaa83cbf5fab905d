"""Every use of what torch does not promise to keep: for an upgrade of torch, this is the file to read.

Each function says with which releases it was seen to work and what public thing would take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "DispatchMode",
    "add_all_",
    "add_numbers_",
    "copy_all_",
    "dependent_launch_options",
    "differences",
    "end_allocation_to_pool",
    "multiply_all_",
    "negate_all_",
    "norms",
    "products",
    "quotients",
    "release_pool",
    "rsqrt_all_",
    "scale_all_",
    "sleep_on_device",
    "step_unless_found",
    "sums",
    "unscale_and_find_nonfinite_",
    "update_loss_scale_",
    "without_dispatch_modes",
]

DispatchMode = TorchDispatchMode
"""Base class of a context that sees every operation. Seen on 2.15; torch.utils.flop_counter shows no other way."""


def copy_all_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """targets[i] becomes sources[i], converted to its dtype; one launch for many tensors on a GPU.

    Seen on 2.15. Public: `Tensor.copy_` in a loop, one launch each.
    """
    torch._foreach_copy_(list(targets), list(sources))


def sums(tensors: Sequence[Tensor], others: Sequence[float] | Sequence[Tensor]) -> list[Tensor]:
    """tensors[i] + others[i], new tensors. Seen on 2.15. Public: a loop of additions."""
    return list(torch._foreach_add(list(tensors), list(others)))  # type: ignore[arg-type]


def products(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
    """tensors[i] * factors[i], new tensors. Seen on 2.15. Public: a loop of products."""
    return list(torch._foreach_mul(list(tensors), list(factors)))


def differences(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """tensors[i] - others[i], new tensors. Seen on 2.15. Public: a loop of subtractions."""
    return list(torch._foreach_sub(list(tensors), list(others)))


def quotients(tensors: Sequence[Tensor], divisors: Sequence[Tensor]) -> list[Tensor]:
    """tensors[i] / divisors[i], new tensors. Seen on 2.15. Public: a loop of divisions."""
    return list(torch._foreach_div(list(tensors), list(divisors)))


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Euclidean norm of each tensor, scalars. Seen on 2.15. Public: `torch.linalg.vector_norm` in a loop."""
    return list(torch._foreach_norm(list(tensors)))


def add_all_(tensors: Sequence[Tensor], others: Sequence[Tensor], *, alpha: float = 1.0) -> None:
    """tensors[i] += alpha * others[i]. Seen on 2.15. Public: `Tensor.add_` in a loop."""
    torch._foreach_add_(list(tensors), list(others), alpha=alpha)


def add_numbers_(tensors: Sequence[Tensor], numbers: Sequence[float]) -> None:
    """tensors[i] += numbers[i]. Seen on 2.15. Public: `Tensor.add_` in a loop."""
    torch._foreach_add_(list(tensors), list(numbers))


def scale_all_(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    """tensors[i] *= factor, a number or a scalar on their device. Seen on 2.15. Public: `Tensor.mul_` in a loop."""
    torch._foreach_mul_(list(tensors), factor)


def multiply_all_(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """tensors[i] *= factors[i]. Seen on 2.15. Public: `Tensor.mul_` in a loop."""
    torch._foreach_mul_(list(tensors), list(factors))


def negate_all_(tensors: Sequence[Tensor]) -> None:
    """tensors[i] *= -1. Seen on 2.15. Public: `Tensor.neg_` in a loop."""
    torch._foreach_neg_(list(tensors))


def rsqrt_all_(tensors: Sequence[Tensor]) -> None:
    """tensors[i] **= -1/2. Seen on 2.15. Public: `Tensor.rsqrt_` in a loop."""
    torch._foreach_rsqrt_(list(tensors))


def unscale_and_find_nonfinite_(gradients: Sequence[Tensor], found: Tensor, inverse_scale: Tensor) -> None:
    """Multiply `gradients` by `inverse_scale` in place; `found` becomes 1 where one has a non-finite value, else stays.

    `found` and `inverse_scale`: float32 scalars on the gradients' device. The host does not wait.
    Seen on 2.15. Public: none (`torch.amp.GradScaler` does it per optimizer, with host reads in between).
    """
    torch._amp_foreach_non_finite_check_and_unscale_(list(gradients), found, inverse_scale)


def update_loss_scale_(
    scale: Tensor, good_passes: Tensor, found: Tensor, *, growth: float, backoff: float, interval: int
) -> None:
    """`scale` times `backoff` where `found` is 1, times `growth` after `interval` good passes in a row; counts those.

    `scale` and `found`: float32 scalars, `good_passes`: int32 scalar, all on one device. The host does not wait.
    Seen on 2.15. Public: none (`torch.amp.GradScaler.update` does it for its own scale).
    """
    torch._amp_update_scale_(scale, good_passes, found, growth, backoff, interval)


def step_unless_found(optimizer: torch.optim.Optimizer, found: Tensor) -> None:
    """One step of a fused optimizer that its kernel leaves out where `found` (float32 scalar) is 1.

    Through the attributes by which torch's own GradScaler talks to fused optimizers: the decision stays on the device.
    Seen on 2.15. Public: none (`GradScaler.step` sets the same attributes).
    """
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = found  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def dependent_launch_options() -> dict[str, bool]:
    """Options of torch.compile under which generated kernels use programmatic dependent launch; none where it does not know.

    Seen on 2.15, which writes them and has not run them here. Public: the option itself, whose presence cannot be asked.
    """
    from torch._inductor import list_options

    return {name: True for name in ("triton.enable_pdl",) if name in list_options()}


def end_allocation_to_pool(device_index: int, pool: tuple[int, int]) -> None:
    """Tell the CUDA allocator that a capture into `pool` is over. Raises RuntimeError where it knows that already.

    Needed on 2.11, whose captures that fail do not say so; 2.15's end in `CUDAGraph.reset`, which will be the public way.
    """
    torch._C._cuda_endAllocateToPool(device_index, pool)


def release_pool(device_index: int, pool: tuple[int, int]) -> None:
    """Give `pool` up, as the end of a capture's life does. Raises RuntimeError where that has happened.

    Needed on 2.11 as `end_allocation_to_pool` is.
    """
    torch._C._cuda_releasePool(device_index, pool)


def without_dispatch_modes() -> AbstractContextManager[object]:
    """Within the block no mode counts or records operations. Seen on 2.15; nothing public does it."""
    context: AbstractContextManager[object] = _disable_current_modes()
    return context


def sleep_on_device(cycles: int) -> None:
    """Keep the current stream busy for so many clock cycles of the GPU (a thousand are about half a microsecond).

    The host goes on at once, and what it queues meanwhile begins when the sleep is over, without gaps. Seen on 2.15; it is
    in 2.11's source. Public: none; a long kernel in its place.
    """
    torch.cuda._sleep(cycles)
