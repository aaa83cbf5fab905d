"""BatchNorm over the batches of all processes, on any device (torch's SyncBatchNorm serves GPUs only)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dat_engine.model.branches import batchnorm_layers


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
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)


def synchronise_batchnorm(module: nn.Module) -> None:
    """Replace every BatchNorm below `module`, branched or not, by a synchronised one with the same tensors, in place."""
    for parent, name, layer in batchnorm_layers(module):
        synchronised = SynchronisedBatchNorm(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        )
        for tensor_name in (*layer._parameters, *layer._buffers):
            setattr(synchronised, tensor_name, getattr(layer, tensor_name))
        setattr(parent, name, synchronised.train(layer.training))
