"""MART, squeeze training, spectral alignment and DAJAT: one whole training step each, in float64.

DAJAT's branch for AutoAugment views is the states' second set of BatchNorm, here called mix.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracle import losses, other_losses
from tests.oracle.attack import clip01, perturb, project
from tests.oracle.networks import split_state
from tests.oracle.single_branch import base_branch_step
from tests.oracle.updates import Tensors, detached, eval_logits, gradients, leaves, sgd_step, train_mode_logits

START_SCALE = 0.001
DESCENT = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def mart_step(
    *,
    model_state: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
    start_noise: Tensor,
    epsilon: float = 8 / 255,
    step_size: float = 0.007,
    steps: int = 10,
    beta: float = 5.0,
) -> dict[str, Any]:
    """x' maximises the cross entropy from x + 0.001·noise; then x, x' forward. Result: adversarial, terms, model_after, …"""
    return base_branch_step(
        model_state=model_state,
        images=images,
        start=clip01(images + START_SCALE * start_noise),
        objective=lambda _clean, attacked: losses.cross_entropy(attacked, targets),
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
        group_names=("clean", "adversarial"),
        terms_of=lambda logits: other_losses.mart_terms(logits["clean"], logits["adversarial"], targets, beta=beta),
        momentum_buffers=None,
        descent=DESCENT,
    )


def squeeze_step(
    *,
    model_state: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
    start_noise: Tensor,
    other_start_noise: Tensor,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    beta: float = 6.0,
) -> dict[str, Any]:
    """Two twins of each image move apart; then the collaborative one, x and the adversarial one forward, in that order.

    In a step the twin with the lower probability of the label moves away from the more probable of the other twin and x,
    the other twin away from the less probable of the first one and x.
    """
    parameters, running = split_state(model_state)
    logits_of = eval_logits(parameters, running, "base")
    low = clip01(images + START_SCALE * start_noise)
    high = clip01(images + START_SCALE * other_start_noise)
    clean = losses.log_softmax(logits_of(images)).detach()
    for _ in range(steps):
        low, high = low.detach().requires_grad_(), high.detach().requires_grad_()
        log_p, log_q = losses.log_softmax(logits_of(low)), losses.log_softmax(logits_of(high))
        value = torch.zeros((), dtype=images.dtype)
        swapped = []
        for sample in range(len(images)):
            label = int(targets[sample])
            p, q, x = log_p[sample], log_q[sample], clean[sample]
            swapped.append(bool(p[label] > q[label]))
            below, above = (q, p) if swapped[-1] else (p, q)
            value = value + _divergence(above if above[label] >= x[label] else x, below)
            value = value + _divergence(below if below[label] <= x[label] else x, above)
        of_low, of_high = torch.autograd.grad(value / 2, [low, high])
        low = project(low.detach() + step_size * of_low.sign(), images, epsilon)
        high = project(high.detach() + step_size * of_high.sign(), images, epsilon)
        swap = torch.tensor(swapped)[:, None, None, None]
        low, high = torch.where(swap, high, low), torch.where(swap, low, high)
    outcome = _descend(
        parameters,
        running,
        {"collaborative": high, "clean": images, "adversarial": low},
        lambda logits: other_losses.squeeze_terms(
            logits["clean"], logits["collaborative"], logits["adversarial"], targets, beta=beta
        ),
    )
    return {"adversarial": low, "collaborative": high, **outcome}


def _divergence(log_constant: Tensor, log_moving: Tensor) -> Tensor:
    """KL of a constant distribution from one that moves, both [K] in logarithms."""
    return (torch.exp(log_constant.detach()) * (log_constant.detach() - log_moving)).sum()


def sar_step(
    *,
    model_state: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
    start_noise: Tensor,
    weight: float,
    spectrum: str,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
) -> dict[str, Any]:
    """x' maximises the cross entropy from x + epsilon·noise, noise uniform in [-1, 1]; then x', x forward, in that order."""
    return base_branch_step(
        model_state=model_state,
        images=images,
        start=clip01(images + epsilon * start_noise),
        objective=lambda _clean, attacked: losses.cross_entropy(attacked, targets),
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
        group_names=("adversarial", "clean"),
        terms_of=lambda logits: other_losses.sar_terms(
            logits["clean"], logits["adversarial"], targets, weight=weight, spectrum=spectrum
        ),
        momentum_buffers=None,
        descent=DESCENT,
    )


def dajat_step(
    *,
    model_state: Mapping[str, Tensor],
    views: list[Tensor],
    targets: Tensor,
    start_noise: list[Tensor],
    epsilon: float,
    step_size: float,
    steps: int = 2,
    beta: float = 11.0,
    js_weight: float = 2.0,
    label_smoothing: float = 0.0,
) -> dict[str, Any]:
    """The first view on branch base, the others on branch mix; each x' maximises KL(f(x)‖f(x')) from x + 0.001·noise.

    epsilon and step_size are the step's own. Forwards: x, x' of every view in turn. Result: adversarial, a list; terms, …
    """
    parameters, running = split_state(model_state)
    names = ["clean", *(f"auto_{index}" for index in range(1, len(views)))]
    groups = {}
    for name, view, noise in zip(names, views, start_noise, strict=True):
        adversarial, _ = perturb(
            logits_of=eval_logits(parameters, running, "base" if name == "clean" else "mix"),
            objective=losses.kl_divergence,
            images=view,
            start=clip01(view + START_SCALE * noise),
            epsilon=epsilon,
            step_size=step_size,
            steps=steps,
        )
        groups[name] = view
        groups["adversarial" if name == "clean" else f"{name}_adversarial"] = adversarial.detach()
    attacked = [name for name in groups if name not in names]
    outcome = _descend(
        parameters,
        running,
        groups,
        lambda logits: other_losses.dajat_terms(
            [logits[name] for name in names],
            [logits[name] for name in attacked],
            targets,
            beta=beta,
            js_weight=js_weight,
            label_smoothing=label_smoothing,
        ),
    )
    return {"adversarial": [groups[name] for name in attacked], **outcome}


def _descend(
    parameters: Tensors,
    running: Tensors,
    groups: Mapping[str, Tensor],
    terms_of: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> dict[str, Any]:
    theta = leaves(parameters)
    logits, running_after = train_mode_logits(theta, running, groups)
    terms = terms_of(logits)
    own = gradients(terms["loss"], theta)
    parameters_after, _ = sgd_step(parameters=parameters, gradients=own, buffers=None, **DESCENT)
    return {"terms": detached(terms), "model_after": parameters_after, "running_after": running_after}
