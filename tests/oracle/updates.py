"""What every training step consists of: forwards in eval and train mode, gradients, one SGD update."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tests.oracle.networks import model_logits

GROUP_BRANCHES = {
    **dict.fromkeys(("clean", "adversarial", "collaborative"), "base"),
    **dict.fromkeys(("mixed", "mixed_adversarial"), "mix"),
    **dict.fromkeys(("auto_1", "auto_1_adversarial", "auto_2", "auto_2_adversarial"), "mix"),
}
Tensors = dict[str, Tensor]


def eval_logits(
    parameters: Mapping[str, Tensor], running: Mapping[str, Tensor], branch: str
) -> Callable[[Tensor], Tensor]:
    """The network as the attack sees it: images -> logits by running statistics, which do not change."""

    def logits_of(images: Tensor) -> Tensor:
        return model_logits(parameters, images, branch, training=False, running=running)[0]

    return logits_of


def train_mode_logits(
    parameters: Mapping[str, Tensor],
    running: Mapping[str, Tensor],
    groups: Mapping[str, Tensor],
    branches: Mapping[str, str] = GROUP_BRANCHES,
) -> tuple[dict[str, Tensor], Tensors]:
    """Logits of each group by its own train-mode forward, in the order of `groups`, and the statistics afterwards.

    Group names say the branch, as `GROUP_BRANCHES` has it.
    """
    logits, statistics = {}, dict(running)
    for name, batch in groups.items():
        logits[name], statistics = model_logits(parameters, batch, branches[name], training=True, running=statistics)
    return logits, statistics


def leaves(parameters: Tensors) -> Tensors:
    return {name: value.clone().requires_grad_() for name, value in parameters.items()}


def gradients(loss: Tensor, leaves: Tensors) -> Tensors:
    """d loss / d leaf by name; a leaf that takes no part in the loss has no entry. The graph is kept."""
    values = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
    return {name: value for name, value in zip(leaves, values, strict=True) if value is not None}


def sgd_step(
    *,
    parameters: Tensors,
    gradients: Tensors,
    buffers: Tensors | None,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> tuple[Tensors, Tensors]:
    """(parameters, momentum buffers) after one SGD step with torch's convention.

    g <- g + weight_decay·p; b <- g at first, momentum·b + g later (no dampening); p <- p - learning_rate·b.
    Parameters without a gradient stay as they are and get no buffer, as with grad = None in torch.
    """
    parameters_after, buffers_after = {}, {}
    for name, parameter in parameters.items():
        if name not in gradients:
            parameters_after[name] = parameter
            continue
        decayed = gradients[name] + weight_decay * parameter
        buffers_after[name] = decayed if buffers is None else momentum * buffers[name] + decayed
        parameters_after[name] = parameter - learning_rate * buffers_after[name]
    return parameters_after, buffers_after


def detached(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: value.detach() for name, value in tensors.items()}
