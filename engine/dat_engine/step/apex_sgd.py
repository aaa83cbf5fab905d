"""NVIDIA apex's FusedSGD as an optimizer of the step: whether it is there, how it is made, how it skips a step.

What differs from torch's fused SGD: it updates float32 weights on a GPU only; it cannot ascend, so the gradients of a
second player are negated for it; it skips a step where its own integer flag on the device is set; and it takes the
learning rate as a number of the host, so a captured graph would keep the rate of its capture for ever.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dat_engine import private_torch
from dat_engine.errors import UserError

CANNOT_BE_CAPTURED = (
    "apex's FusedSGD takes its learning rate from the host, so a captured graph could not follow the schedule; "
    "--optimizer.implementation torch can be captured"
)
REMEDY = "use --optimizer.implementation torch"
_DEVICES = ("cuda",)


def why_unusable() -> str | None:
    """None where NVIDIA's apex with its compiled kernels is installed, else one sentence on what is there instead.

    Looks at files and imports nothing: the package that PyPI calls apex is a toolkit for web applications.
    """
    found = importlib.util.find_spec("apex")
    if found is None:
        return "NVIDIA apex is not installed (it is built from source: github.com/NVIDIA/apex, not pip install apex)"
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    if not any((folder / "optimizers").is_dir() for folder in folders):
        return (
            "the installed package called apex is not NVIDIA's but the one that PyPI has under that name, which is no "
            "optimizer; uninstall it and build github.com/NVIDIA/apex"
        )
    if importlib.util.find_spec("amp_C") is None:
        return (
            "NVIDIA apex is installed without its CUDA kernels (no module amp_C); "
            "build it again with APEX_CPP_EXT=1 APEX_CUDA_EXT=1"
        )
    return None


def fused_sgd(
    parameters: Sequence[nn.Parameter],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> torch.optim.Optimizer:
    """apex.optimizers.FusedSGD over float32 parameters on a GPU.

    Raises:
        UserError: apex is missing, is another package or lacks its kernels; parameters that it cannot update.
    """
    reason = why_unusable()
    if reason is not None:
        raise UserError(f"{reason}; or {REMEDY}")
    first = parameters[0]
    if first.device.type not in _DEVICES:
        raise UserError(f"apex's FusedSGD works on a GPU and the parameters are on {first.device}; {REMEDY}")
    others = {parameter.dtype for parameter in parameters} - {torch.float32}
    if others:  # it passes over them without a word
        raise UserError(
            f"apex's FusedSGD would leave parameters in {', '.join(map(str, others))} unchanged, it updates float32; {REMEDY}"
        )
    optimizer: torch.optim.Optimizer = importlib.import_module("apex.optimizers").FusedSGD(
        parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )
    optimizer.param_groups[0]["maximize"] = maximize
    return optimizer


def is_apex(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `fused_sgd` made this optimizer."""
    return hasattr(optimizer, "_dummy_overflow_buf")


def step_unless(optimizer: torch.optim.Optimizer, found_nonfinite: Tensor) -> None:
    """One step that the kernel itself leaves out where `found_nonfinite` (float32 scalar) is 1, without asking the device."""
    flag: Tensor = optimizer._dummy_overflow_buf  # type: ignore[attr-defined]
    flag.copy_(found_nonfinite)
    for group in optimizer.param_groups:
        if group["maximize"]:
            private_torch.negate_all_([parameter.grad for parameter in group["params"]])
    optimizer.step()
