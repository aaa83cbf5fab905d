"""One whole step of DAT with parts of it left out or exchanged, in float64: what the ablations of the paper compare.

Written beside `tests.oracle.method.dat_step`, which says what the whole method is; with nothing changed both agree.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracle import losses
from tests.oracle.attack import clip01, perturb
from tests.oracle.networks import generator_amplitude, split_state
from tests.oracle.updates import detached, eval_logits, gradients, leaves, sgd_step, train_mode_logits
from tests.oracle.views import amplitude_mix, crop_and_flip


def ablated_step(
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
    mix_offsets: Tensor | None = None,
    mix_flip: Tensor | None = None,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 5,
    beta: float = 15.0,
    omega: float = 2.0,
    label_smoothing: float = 0.5,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    attack_path_gradient: bool = True,
    training_loss: str = "trades",
    attack_loss: str = "both",
    mixed_image: bool = True,
    adversarial: str = "dual",
    branches: str = "split",
    other: Tensor | None = None,
) -> dict[str, Any]:
    """Arguments as of `dat_step`, whose update "joint" this is, and those of the ablations.

    start_noise and mix_start_noise are added to the images as they are given. x̂ is made of `originals` (give x itself for
    the paper's text) and cropped and flipped. training_loss "pgd-at": the cross entropy of x' (and of x̂') for L_AT;
    attack_loss "cross-entropy" or "kl": one term of L_AE alone; mixed_image False: x and x' alone; adversarial "single":
    x̂' is x' with the same amplitude mixed in; branches "shared": every group on branch base; other [B]: the amplitude of
    image other[i] is mixed into image i, and there is no generator.

    Result: images (by group), terms, loss, model_gradients, model_after, running_after, generator_gradients (without a
    generator: none), generator_after.
    """
    parameters, running = split_state(model_state)
    generator_parameters, _ = split_state(generator_state)
    theta, psi = leaves(parameters), leaves(generator_parameters)
    x, x0 = images.double(), originals.double()
    branch_of_mixed = {"split": "mix", "shared": "base"}[branches]
    branch_of = {"clean": "base", "adversarial": "base", "mixed": branch_of_mixed, "mixed_adversarial": branch_of_mixed}
    smoothing = {"label_smoothing": label_smoothing}

    def objective(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
        if attack_loss == "cross-entropy":
            return losses.cross_entropy(adversarial_logits, targets, **smoothing)
        if attack_loss == "kl":
            return losses.kl_divergence(clean_logits, adversarial_logits)
        return losses.attack_loss(clean_logits, adversarial_logits, targets, beta=beta, **smoothing)

    def attacked(view: Tensor, noise: Tensor, branch: str) -> Tensor:
        found, _ = perturb(
            logits_of=eval_logits(parameters, running, branch),
            objective=objective,
            images=view,
            start=clip01(view.detach() + noise.double()),
            epsilon=epsilon,
            step_size=step_size,
            steps=steps,
        )
        return found

    groups = {"clean": x, "adversarial": attacked(x, start_noise, "base")}
    if mixed_image:
        if other is None:
            condition = eval_logits(parameters, running, "base")(x0)
            shape = (x0.shape[1], x0.shape[2], x0.shape[3])
            amplitude = generator_amplitude({**generator_state, **psi}, z, condition, shape)
        else:
            amplitude = torch.stack([torch.fft.fft2(x0[int(index)]).abs() for index in other])

        def mixed_with_it(source: Tensor) -> Tensor:
            mixed = amplitude_mix(images=source, amplitude=amplitude, lam=lam)
            if mix_offsets is None or mix_flip is None:
                return mixed
            return crop_and_flip(images=mixed, offsets=mix_offsets, flip=mix_flip)

        groups["mixed"] = mixed_with_it(x0)
        if adversarial == "single":
            groups["mixed_adversarial"] = mixed_with_it(groups["adversarial"])
        else:
            groups["mixed_adversarial"] = attacked(groups["mixed"], mix_start_noise, branch_of_mixed)
        if not attack_path_gradient:
            groups["mixed_adversarial"] = groups["mixed_adversarial"].detach()
    if training_loss == "pgd-at" and (omega == 0 or not mixed_image):
        groups = {name: group for name, group in groups.items() if "adversarial" in name}

    logits, running_after = train_mode_logits(theta, running, groups, branch_of)
    terms = losses.ablated_terms(logits, targets, training_loss=training_loss, beta=beta, omega=omega, **smoothing)
    model_gradients = gradients(terms["loss"], theta)
    descent = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    model_after, _ = sgd_step(parameters=parameters, gradients=model_gradients, buffers=None, **descent)
    has_generator = mixed_image and other is None
    generator_gradients = gradients(terms["loss"], psi) if has_generator else {}
    ascent = {name: -gradient for name, gradient in generator_gradients.items()}
    generator_after, _ = sgd_step(parameters=generator_parameters, gradients=ascent, buffers=None, **descent)
    return {
        "images": detached(groups),
        "terms": detached(terms),
        "loss": terms["loss"].detach(),
        "model_gradients": model_gradients,
        "model_after": model_after,
        "running_after": running_after,
        "generator_gradients": generator_gradients,
        "generator_after": generator_after,
    }
