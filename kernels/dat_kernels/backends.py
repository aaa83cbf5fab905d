"""Which implementation serves an operation.

Every operation's folder holds one module per backend, all with the same functions:

=============  =================  ==================================================================
name           module             runs on
=============  =================  ==================================================================
``triton``     `triton_backend`   CUDA; in Triton's interpreter (`TRITON_INTERPRET=1`) on CPU tensors
``native``     `native_backend`   CPU, where the compiled module `dat_kernels._native` was built
``reference``  `reference`        everywhere, in any floating dtype
=============  =================  ==================================================================

Besides the operation's own functions each has `serves(images, *others) -> str | None`: None where it can take these
tensors, otherwise the reason as a clause ("it computes in float32 and images are float64"). Shapes, dtypes and devices
have been checked against each other before a backend sees them.

    amplitude_mix  forward(images, amplitude, lam, crop_offsets | None, flip | None) -> mixed
                   backward_amplitude(grad, images, amplitude, lam, crop_offsets | None, flip | None) -> grad_amplitude
    pgd_step       forward(adversarial, gradient, images, step_size, epsilon, out, model_input | None, active | None)
                   start(images, noise, scale, epsilon | None, seed, offset, out)
    augment        forward(dataset, indices, crop_offsets | None, flip | None, out)

`step_size`, `epsilon` and `scale` are floats or float32 tensors, 0-dim or [B] with one value per sample; `seed` and
`offset` are ints or 0-dim int64 tensors; all tensors are on one device. `out`, `model_input` and `active` are written
in place and always allocated by the caller.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from types import ModuleType

import torch

BACKENDS = ("triton", "native", "reference")
FASTEST = {"cuda": "triton", "cpu": "native"}


def available_backends() -> tuple[str, ...]:
    """Names of the backends that can run on this machine, fastest first; the last is always "reference"."""
    return tuple(name for name in BACKENDS if _why_missing(name) is None)


def choose(operation: str, requested: str | None, *tensors: torch.Tensor) -> ModuleType:
    """The module of `operation` that will serve these tensors.

    Args:
        operation: name of a folder of `dat_kernels`.
        requested: a backend's name, or None for the fastest one that fits device, dtype and shape.
        tensors: the operation's tensors; the first decides the device.

    Raises:
        ValueError: `requested` is unknown, missing on this machine, or cannot take these tensors.
    """
    if requested is not None:
        check_name(requested)
        reason = _why_not(operation, requested, tensors)
        if reason is not None:
            raise ValueError(
                f"backend {requested!r} cannot serve {operation}: {reason}; use another of {available_backends()} "
                "or leave backend=None"
            )
        return _module(operation, requested)
    fastest = FASTEST.get(tensors[0].device.type, "reference")
    reason = _why_not(operation, fastest, tensors)
    if reason is None:
        return _module(operation, fastest)
    _warn_once(operation, fastest, reason)
    return _module(operation, "reference")


def check_name(requested: str | None) -> None:
    """Raise unless `requested` is None or names a backend."""
    if requested is not None and requested not in BACKENDS:
        raise ValueError(f"backend {requested!r} is unknown; use one of {BACKENDS} or None for the fastest that fits")


def _why_not(operation: str, backend: str, tensors: tuple[torch.Tensor, ...]) -> str | None:
    missing = _why_missing(backend)
    if missing is not None:
        return missing
    return _module(operation, backend).serves(*tensors)


@functools.cache
def _module(operation: str, backend: str) -> ModuleType:
    file = "reference" if backend == "reference" else f"{backend}_backend"
    return importlib.import_module(f"dat_kernels.{operation}.{file}")


@functools.cache
def _why_missing(backend: str) -> str | None:
    if backend == "native":
        try:
            importlib.import_module("dat_kernels._native")
        except ImportError as error:
            return (
                "dat_kernels._native cannot be imported "
                f"(install with a C++20 compiler, the Python headers and nanobind present): {error}"
            )
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
            return "this machine has no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    return None


@functools.cache
def _warn_once(operation: str, backend: str, reason: str) -> None:
    warnings.warn(
        f"{operation} runs on the slow reference backend: backend {backend!r} cannot serve it: {reason}", stacklevel=2
    )
