"""TRADES and PGD-AT, the plain methods beside DAT: one whole training step each, on branch base, in float64."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tests.oracle import losses
from tests.oracle.attack import clip01, perturb
from tests.oracle.networks import split_state
from tests.oracle.updates import Tensors, detached, eval_logits, gradients, leaves, sgd_step, train_mode_logits

TRADES_START_SCALE = 0.001


def trades_step(
    *,
    model_state: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
    start_noise: Tensor,
    epsilon: float = 8 / 255,
    step_size: float = 0.007,
    steps: int = 10,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    momentum_buffers: Tensors | None = None,
) -> dict[str, Any]:
    """One TRADES step on branch base: x' maximises KL(f(x)‖f(x')), then forwards of x and x' in train mode.

    start_noise is standard normal, scaled by 0.001 here. Result: start, adversarial, logits ("clean",
    "adversarial"), terms, loss, model_gradients, momentum_buffers, model_after, running_after.
    """
    start = clip01(images.double() + TRADES_START_SCALE * start_noise.double())
    return base_branch_step(
        model_state=model_state,
        images=images.double(),
        start=start,
        objective=losses.kl_divergence,
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
        group_names=("clean", "adversarial"),
        terms_of=lambda logits: losses.trades_terms(
            logits["clean"], logits["adversarial"], targets, beta=beta, label_smoothing=label_smoothing
        ),
        momentum_buffers=momentum_buffers,
        descent={"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay},
    )


def pgd_at_step(
    *,
    model_state: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
    start_noise: Tensor,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    label_smoothing: float = 0.0,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    momentum_buffers: Tensors | None = None,
) -> dict[str, Any]:
    """One PGD-AT step on branch base: x' maximises the cross entropy, then one forward of x' in train mode.

    start_noise is uniform in [-1, 1], scaled by epsilon here. Result as of `trades_step`, without "clean".
    """

    def objective(_clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
        return losses.cross_entropy(adversarial_logits, targets, label_smoothing=label_smoothing)

    return base_branch_step(
        model_state=model_state,
        images=images.double(),
        start=clip01(images.double() + epsilon * start_noise.double()),
        objective=objective,
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
        group_names=("adversarial",),
        terms_of=lambda logits: losses.pgd_at_terms(logits["adversarial"], targets, label_smoothing=label_smoothing),
        momentum_buffers=momentum_buffers,
        descent={"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay},
    )


def base_branch_step(
    *,
    model_state: Mapping[str, Tensor],
    images: Tensor,
    start: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    epsilon: float,
    step_size: float,
    steps: int,
    group_names: tuple[str, ...],
    terms_of: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    momentum_buffers: Tensors | None,
    descent: dict[str, float],
) -> dict[str, Any]:
    """x' by the objective from `start`, then the forwards of the groups, "clean" and "adversarial", in their order."""
    parameters, running = split_state(model_state)
    adversarial, _ = perturb(
        logits_of=eval_logits(parameters, running, "base"),
        objective=objective,
        images=images,
        start=start,
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
    )
    batches = {"clean": images, "adversarial": adversarial}
    theta = leaves(parameters)
    logits, running_after = train_mode_logits(theta, running, {name: batches[name] for name in group_names})
    terms = terms_of(logits)
    model_gradients = gradients(terms["loss"], theta)
    parameters_after, buffers_after = sgd_step(
        parameters=parameters, gradients=model_gradients, buffers=momentum_buffers, **descent
    )
    return {
        "start": start,
        "adversarial": adversarial,
        "logits": detached(logits),
        "terms": detached(terms),
        "loss": terms["loss"].detach(),
        "model_gradients": model_gradients,
        "momentum_buffers": buffers_after,
        "model_after": parameters_after,
        "running_after": running_after,
    }
