"""One whole training step of DAT in float64, returning everything that lies on the way.

All tensors are converted to float64 first. `model_state` and `generator_state` are state dicts as in
`tests.oracle.networks`; momentum buffers are dicts by parameter name, None before the first step.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.oracle import losses
from tests.oracle.attack import clip01, perturb, project, projection_mask
from tests.oracle.networks import generator_amplitude, split_state
from tests.oracle.single_branch import pgd_at_step, trades_step
from tests.oracle.updates import Tensors, detached, eval_logits, gradients, leaves, sgd_step, train_mode_logits
from tests.oracle.views import amplitude_mix, crop_and_flip

__all__ = [
    "amplitude_mix",
    "clip01",
    "crop_and_flip",
    "dat_step",
    "perturb",
    "pgd_at_step",
    "project",
    "projection_mask",
    "sgd_step",
    "trades_step",
    "train_mode_logits",
]

DAT_START_SCALE = 0.001


def dat_step(
    *,
    model_state: Mapping[str, Tensor],
    generator_state: Mapping[str, Tensor],
    images: Tensor,
    originals: Tensor,
    targets: Tensor,
    z: Tensor,
    lam: Tensor,
    start_noise: Tensor,
    mix_start_noise: Tensor,
    mix_offsets: Tensor | None,
    mix_flip: Tensor | None,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 5,
    beta: float = 15.0,
    omega: float = 2.0,
    label_smoothing: float = 0.5,
    generator_update: str = "alternating",
    attack_path_gradient: bool = True,
    first_step: str = "fresh",
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    generator_learning_rate: float | None = None,
    mix_images: Tensor | None = None,
    amplitude_scale: Tensor | float = 1.0,
    momentum_buffers: Tensors | None = None,
    generator_momentum_buffers: Tensors | None = None,
) -> dict[str, Any]:
    """One DAT step.

    images [B, C, H, W] are x (augmented), originals the same images un-augmented; z [B, 100], lam [B];
    start_noise and mix_start_noise are standard normal, scaled by 0.001 here (0: first_step "clean"). x̂ is mixed from
    mix_images (default: originals) and then cropped and flipped by mix_offsets [B, 2], mix_flip [B] (None, None: left alone).
    generator_update is "joint" or "alternating"; generator_learning_rate defaults to learning_rate.

    Result: conditioning_logits, amplitude, mixed (before crop and flip), mixed_view (after), start, mixed_start,
    adversarial, mixed_adversarial, path_mask (d mixed_adversarial / d mixed_view, bool), logits and terms (see
    `losses.dat_terms`), loss, model_gradients, momentum_buffers, model_after (parameters), running_after_theta
    (statistics after the four forwards of the theta step), running_after (at the end of the step),
    generator_logits, generator_terms and generator_loss (the pass that gave psi's gradient), generator_gradients
    (d L_DAT / d psi; the optimizer is given its negative), generator_momentum_buffers, generator_after (parameters).
    """
    if generator_update not in ("joint", "alternating"):
        raise ValueError(f"generator_update is {generator_update!r}; use 'joint' or 'alternating'")
    parameters, running = split_state(model_state)
    generator_parameters, _ = split_state(generator_state)
    theta, psi = leaves(parameters), leaves(generator_parameters)
    images, originals = images.double(), originals.double()

    conditioning_logits = eval_logits(parameters, running, "base")(originals)
    shape = (originals.shape[1], originals.shape[2], originals.shape[3])
    full_generator_state = {**generator_state, **psi}
    amplitude = generator_amplitude(full_generator_state, z, conditioning_logits, shape) * amplitude_scale
    mix_source = originals if mix_images is None else mix_images.double()
    mixed = amplitude_mix(images=mix_source, amplitude=amplitude, lam=lam)
    mixed_view = mixed
    if mix_offsets is not None and mix_flip is not None:
        mixed_view = crop_and_flip(images=mixed, offsets=mix_offsets, flip=mix_flip)

    def objective(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
        return losses.attack_loss(clean_logits, adversarial_logits, targets, beta=beta, label_smoothing=label_smoothing)

    limits: dict[str, Any] = {"epsilon": epsilon, "step_size": step_size, "steps": steps}
    start_scale = {"fresh": DAT_START_SCALE, "clean": 0.0}[first_step]
    start = clip01(images + start_scale * start_noise.double())
    mixed_start = clip01(mixed_view.detach() + start_scale * mix_start_noise.double())
    adversarial, _ = perturb(
        logits_of=eval_logits(parameters, running, "base"), objective=objective, images=images, start=start, **limits
    )
    mixed_adversarial, path_mask = perturb(
        logits_of=eval_logits(parameters, running, "mix"),
        objective=objective,
        images=mixed_view,
        start=mixed_start,
        **limits,
    )
    if not attack_path_gradient:
        mixed_adversarial = mixed_adversarial.detach()
    groups = {
        "clean": images,
        "adversarial": adversarial,
        "mixed": mixed_view,
        "mixed_adversarial": mixed_adversarial,
    }
    weights = {"beta": beta, "omega": omega, "label_smoothing": label_smoothing}

    logits, running_after_theta = train_mode_logits(theta, running, groups)
    terms = losses.dat_terms(logits, targets, **weights)
    model_gradients = gradients(terms["loss"], theta)
    parameters_after, buffers_after = sgd_step(
        parameters=parameters,
        gradients=model_gradients,
        buffers=momentum_buffers,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
    )

    if generator_update == "joint":
        generator_logits, running_after, generator_terms = logits, running_after_theta, terms
    else:
        generator_logits, running_after = train_mode_logits(parameters_after, running_after_theta, groups)
        generator_terms = losses.dat_terms(generator_logits, targets, **weights)
    generator_gradients = gradients(generator_terms["loss"], psi)
    generator_after, generator_buffers_after = sgd_step(
        parameters=generator_parameters,
        gradients={name: -gradient for name, gradient in generator_gradients.items()},
        buffers=generator_momentum_buffers,
        learning_rate=learning_rate if generator_learning_rate is None else generator_learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    return {
        "conditioning_logits": conditioning_logits,
        "amplitude": amplitude.detach(),
        "mixed": mixed.detach(),
        "mixed_view": mixed_view.detach(),
        "start": start,
        "mixed_start": mixed_start,
        "adversarial": adversarial.detach(),
        "mixed_adversarial": mixed_adversarial.detach(),
        "path_mask": path_mask,
        "logits": detached(logits),
        "terms": detached(terms),
        "loss": terms["loss"].detach(),
        "model_gradients": model_gradients,
        "momentum_buffers": buffers_after,
        "model_after": parameters_after,
        "running_after_theta": running_after_theta,
        "running_after": running_after,
        "generator_logits": detached(generator_logits),
        "generator_terms": detached(generator_terms),
        "generator_loss": generator_terms["loss"].detach(),
        "generator_gradients": generator_gradients,
        "generator_momentum_buffers": generator_buffers_after,
        "generator_after": generator_after,
    }
