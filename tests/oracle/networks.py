"""Forward passes of the trained networks, written out over plain state dicts in float64.

State dicts use the naming of the DAT authors' code: `name` is the BatchNorm set of branch "base" and `name_auto`
that of branch "mix". Parameters may carry gradients; nothing is modified in place.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracle.states import random_generator_state, random_resnet_state, random_wide_resnet_state

__all__ = [
    "batch_norm",
    "generator_amplitude",
    "model_logits",
    "random_generator_state",
    "random_resnet_state",
    "random_wide_resnet_state",
    "resnet_logits",
    "split_state",
    "wide_resnet_logits",
]

BATCH_NORM_MOMENTUM = 0.1
BATCH_NORM_EPSILON = 1e-5
GENERATOR_BATCH_NORM_EPSILON = 0.8
LEAKY_SLOPE = 0.2
_BRANCH_SUFFIX = {"base": "", "mix": "_auto"}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def split_state(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Detached copies of (parameters, running statistics); floating tensors become float64."""
    parameters: dict[str, Tensor] = {}
    running: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        copy = value.detach().clone()
        group = running if name.endswith(_STATISTICS) else parameters
        group[name] = copy.double() if copy.is_floating_point() else copy
    return parameters, running


def batch_norm(
    values: Tensor,
    name: str,
    parameters: Mapping[str, Tensor],
    running: dict[str, Tensor],
    *,
    training: bool,
    epsilon: float = BATCH_NORM_EPSILON,
) -> Tensor:
    """Batch normalisation of [B, C, ...] over every axis but 1.

    In training the biased variance normalises, the unbiased one enters the running statistics, and the entries of
    `running` under `name` are replaced (the old tensors stay as they were). ValueError for one value per channel.
    """
    axes = [axis for axis in range(values.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
    if training:
        count = values.numel() // values.shape[1]
        if count < 2:
            raise ValueError(f"{name}: one value per channel has no variance; use a larger batch")
        mean = values.sum(dim=axes) / count
        variance = ((values - mean.reshape(shape)) ** 2).sum(dim=axes) / count
        unbiased = variance.detach() * count / (count - 1)
        old_mean, old_variance = running[f"{name}.running_mean"], running[f"{name}.running_var"]
        running[f"{name}.running_mean"] = _moved(old_mean, mean.detach())
        running[f"{name}.running_var"] = _moved(old_variance, unbiased)
        if f"{name}.num_batches_tracked" in running:
            running[f"{name}.num_batches_tracked"] = running[f"{name}.num_batches_tracked"] + 1
    else:
        mean = running[f"{name}.running_mean"].double()
        variance = running[f"{name}.running_var"].double()
    normalised = (values - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + epsilon)
    weight, bias = parameters[f"{name}.weight"].double(), parameters[f"{name}.bias"].double()
    return normalised * weight.reshape(shape) + bias.reshape(shape)


def resnet_logits(
    state_dict: Mapping[str, Tensor],
    images: Tensor,
    branch: str,
    *,
    training: bool,
    running: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """CIFAR ResNet of basic blocks: (logits [B, K], running statistics after this forward).

    images [B, 3, H, W] in [0, 1]; branch "base" or "mix". `running` takes the place of the running statistics in
    `state_dict`. In eval mode the returned statistics equal the given ones. Depth and widths come from the tensors.
    """
    suffix, statistics = _branch_suffix(branch), _statistics(state_dict, running)

    def convolve(values: Tensor, name: str, stride: int) -> Tensor:
        weight = state_dict[f"{name}.weight"].double()
        return F.conv2d(values, weight, stride=stride, padding=weight.shape[-1] // 2)

    def normalise(values: Tensor, name: str) -> Tensor:
        return batch_norm(values, name, state_dict, statistics, training=training)

    values = F.relu(normalise(convolve(images.double(), "conv1", 1), f"bn1{suffix}"))
    for stage, stage_stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        for index, block in _blocks(state_dict, f"layer{stage}"):
            stride = stage_stride if index == 0 else 1
            residual = F.relu(normalise(convolve(values, f"{block}.conv1", stride), f"{block}.bn1{suffix}"))
            residual = normalise(convolve(residual, f"{block}.conv2", 1), f"{block}.bn2{suffix}")
            shortcut = values
            if f"{block}.shortcut.0.weight" in state_dict:
                shortcut = convolve(values, f"{block}.shortcut.0", stride)
                shortcut = normalise(shortcut, f"{block}.shortcut_bn{suffix}.0")
            values = F.relu(residual + shortcut)
    return _linear(values.mean(dim=(2, 3)), "linear", state_dict), statistics


def wide_resnet_logits(
    state_dict: Mapping[str, Tensor],
    images: Tensor,
    branch: str,
    *,
    training: bool,
    running: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pre-activation WideResNet; arguments and result as in `resnet_logits`."""
    suffix, statistics = _branch_suffix(branch), _statistics(state_dict, running)

    def convolve(values: Tensor, name: str, stride: int) -> Tensor:
        weight = state_dict[f"{name}.weight"].double()
        return F.conv2d(values, weight, stride=stride, padding=weight.shape[-1] // 2)

    def activate(values: Tensor, name: str) -> Tensor:
        return F.relu(batch_norm(values, f"{name}{suffix}", state_dict, statistics, training=training))

    values = convolve(images.double(), "conv1", 1)
    for stage, stage_stride in ((1, 1), (2, 2), (3, 2)):
        for index, block in _blocks(state_dict, f"block{stage}.layer"):
            stride = stage_stride if index == 0 else 1
            activated = activate(values, f"{block}.bn1")
            residual = activate(convolve(activated, f"{block}.conv1", stride), f"{block}.bn2")
            residual = convolve(residual, f"{block}.conv2", 1)
            shortcut = values
            if f"{block}.convShortcut.weight" in state_dict:
                shortcut = convolve(activated, f"{block}.convShortcut", stride)
            values = residual + shortcut
    values = activate(values, "bn1")
    return _linear(values.mean(dim=(2, 3)), "fc", state_dict), statistics


def model_logits(
    state_dict: Mapping[str, Tensor],
    images: Tensor,
    branch: str,
    *,
    training: bool,
    running: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`wide_resnet_logits` for a state dict with `block1.*` entries, `resnet_logits` for any other."""
    is_wide = any(name.startswith("block1.") for name in state_dict)
    forward = wide_resnet_logits if is_wide else resnet_logits
    return forward(state_dict, images, branch, training=training, running=running)


def generator_amplitude(
    state_dict: Mapping[str, Tensor], z: Tensor, logits: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """Adversarial amplitude generator: amplitude [B, C, H, W] in [0, 1], plain FFT order (index (0, 0) is DC).

    z [B, 100], logits [B, K], shape (C, H, W). The state dict's last layer speaks of the centred layout, as the
    authors' does. BatchNorm always uses the batch's statistics, so the running ones are neither read nor returned.
    """
    values = torch.cat([z.double(), logits.double()], dim=1)
    values = F.leaky_relu(_linear(values, "model.0", state_dict), LEAKY_SLOPE)
    discarded = _statistics(state_dict, None)
    for linear, norm in (("model.2", "model.3"), ("model.5", "model.6"), ("model.8", "model.9")):
        values = _linear(values, linear, state_dict)
        values = batch_norm(values, norm, state_dict, discarded, training=True, epsilon=GENERATOR_BATCH_NORM_EPSILON)
        values = F.leaky_relu(values, LEAKY_SLOPE)
    centred = torch.sigmoid(_linear(values, "model.11", state_dict)).reshape(-1, *shape)
    return torch.fft.ifftshift(centred, dim=(-2, -1))


def _moved(old: Tensor, observed: Tensor) -> Tensor:
    return (1 - BATCH_NORM_MOMENTUM) * old.double() + BATCH_NORM_MOMENTUM * observed


def _linear(values: Tensor, name: str, state_dict: Mapping[str, Tensor]) -> Tensor:
    return values @ state_dict[f"{name}.weight"].double().T + state_dict[f"{name}.bias"].double()


def _branch_suffix(branch: str) -> str:
    if branch not in _BRANCH_SUFFIX:
        raise ValueError(f"branch is {branch!r}; use 'base' or 'mix'")
    return _BRANCH_SUFFIX[branch]


def _statistics(state_dict: Mapping[str, Tensor], running: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    return split_state(state_dict)[1] if running is None else dict(running)


def _blocks(state_dict: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[int, str]]:
    index = 0
    while f"{prefix}.{index}.conv1.weight" in state_dict:
        yield index, f"{prefix}.{index}"
        index += 1
