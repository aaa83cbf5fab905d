"""Look at a model in eval mode, and leave it as if nobody had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dat_engine.errors import UserError


def check_module(model: object) -> None:
    """Raise UserError unless `model` is a module, not a class or a function."""
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise UserError(f"the model is {given}; give a torch.nn.Module, which a class becomes when it is called")


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter or buffer; the CPU where it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Dtype of the model's first floating-point parameter or buffer; float32 where it has none."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Within the block `model` is in eval mode, and float32 is float32 (no TF32, no autocast).

    Afterwards every module is in the mode that it was in, and buffers and the global random state of the CPU and of the
    model's device are what they were, whatever the model's layers did to them.
    """
    device = device_of(model)
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(device.type, enabled=False):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        model.eval()
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
            for module, training in modes:
                module.training = training
            for module, name, buffer, value in buffers:
                _put_back(module, name, buffer, value)


@torch.no_grad()
def _put_back(module: nn.Module, name: str, buffer: Tensor, value: Tensor) -> None:
    module._buffers[name] = buffer
    if not torch.equal(buffer, value):
        buffer.copy_(value)
