"""BatchNorm over the batches of all processes: torch's own on a GPU, ours elsewhere (torch's serves GPUs only)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dat_engine.errors import UserError
from dat_engine.model.branches import batchnorm_layers
from dat_engine.model.copying import acts_as_its_type


class _SumOverProcesses(torch.autograd.Function):
    """The sum of all processes' tensors, in each of them; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


class SynchronisedBatchNorm(_BatchNorm):
    """In train mode mean and variance are those of the union of all processes' batches, which must be equal in size."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"BatchNorm needs [B, C, ...]; got {input.ndim} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or distributed.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        dims = [0, *range(2, input.ndim)]
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.numel() // values.shape[1] * distributed.get_world_size()
        # two passes: squares of deviations from the common mean lose nothing where the mean is large
        mean = _SumOverProcesses.apply(values.sum(dims)) / count
        shape = (1, -1) + (1,) * (input.ndim - 2)
        centred = values - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
                share: float | Tensor
                if self.momentum is not None:
                    share = self.momentum
                else:  # the plain mean over all batches
                    assert self.num_batches_tracked is not None
                    share = self.num_batches_tracked.to(self.running_mean.dtype).reciprocal()
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)


def synchronise_batchnorm(module: nn.Module) -> None:
    """Replace every BatchNorm below `module`, branched or not, by a synchronised one with the same tensors, in place.

    On a GPU by torch's own SyncBatchNorm, elsewhere by `SynchronisedBatchNorm`.

    Raises:
        UserError: a BatchNorm that does more than normalise (timm's BatchNormAct2d), which a synchronised one would not do;
            nothing is replaced.
    """
    layers = list(batchnorm_layers(module))
    for parent, name, layer in layers:
        if type(layer) not in REPLACEABLE or not acts_as_its_type(layer):
            path = next(path for path, found in module.named_modules() if found is parent)
            what = "hooks or parametrisations" if type(layer) in REPLACEABLE else "a behaviour of its own"
            raise UserError(
                f"BatchNorm cannot be synchronised over processes: layer {'.'.join(filter(None, (path, name)))} is a "
                f"{type(layer).__name__} with {what}; train without synchronised BatchNorm, or with plain torch.nn.BatchNorm "
                "layers"
            )
    kind = synchronised_type(next(module.parameters(), torch.empty(0)).device)
    replacements: dict[nn.Module, nn.Module] = {}
    for parent, name, layer in layers:
        if layer not in replacements:
            synchronised = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
            for tensor_name in (*layer._parameters, *layer._buffers):
                setattr(synchronised, tensor_name, getattr(layer, tensor_name))
            replacements[layer] = synchronised.train(layer.training)
        setattr(parent, name, replacements[layer])


def synchronised_type(device: torch.device) -> type[nn.SyncBatchNorm] | type[SynchronisedBatchNorm]:
    """Which layer synchronises on `device`: torch's fuses its kernels and serves CUDA devices only."""
    return nn.SyncBatchNorm if device.type == "cuda" else SynchronisedBatchNorm


REPLACEABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, SynchronisedBatchNorm)
"""Exactly these types are BatchNorm and nothing else; a subclass may do more."""
