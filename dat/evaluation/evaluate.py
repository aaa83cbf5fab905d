"""Robust accuracy by the paper's protocol: natural, FGSM, PGD-20, PGD-100, C&W-infinity, AutoAttack.

float32 (TF32 off), eval mode, the default branch. Attacks other than AutoAttack follow the gradient of an attack model that has
been compared with the model; what is counted are the model's own predictions on the images they return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dat.evaluation.attacks import REGISTRY, Perturb, Victim, parse_attacks
from dat.evaluation.images import ImagesAndLabels, NumberedBatch, check_epsilon, numbered_batches
from dat.evaluation.result import NOT_FINITE, Evaluation, Predictions
from dat.evaluation.rounds import in_rounds
from dat.seed import check_seed
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import image_gradient
from dat_engine.attack.verification import (
    CHECKED_IMAGES,
    GRADIENT_TOLERANCE,
    gradient_difference,
    logits_of,
    unsteadiness,
)
from dat_engine.distributed import ONE_PROCESS, Processes
from dat_engine.errors import RunFailedError, UserError
from dat_engine.model.as_found import check_module, device_of, dtype_of, in_eval_mode
from dat_engine.model.branches import branch_names
from dat_engine.run.stop import Stop

STANDARD = ("natural", "fgsm", "pgd20", "pgd100", "cw")


def evaluate(
    model: nn.Module,
    data: ImagesAndLabels,
    attacks: str | Sequence[str] = STANDARD,
    *,
    epsilon: float,
    batch_size: int = 256,
    seed: int = 0,
    processes: Processes = ONE_PROCESS,
    on_progress: Callable[[str, int], None] | None = None,
    stop: Stop | None = None,
    attack_model: AttackModel | None = None,
) -> Evaluation:
    """Accuracy of `model` on all of `data` under each attack.

    Before anything is counted, the attacks' view of the model is compared with the model, logits and image gradients, on the
    first images; a model that cannot be attacked faithfully is refused.

    Args:
        model: any classifier of [0, 1] images in float32 (or float64) on its device; left as it was found.
        data: (images, labels) as tensors or arrays, images [N, C, H, W] in [0, 1]; a data set or DataLoader that gives them.
        attacks: names out of `dat.evaluation.ATTACKS`.
        epsilon: L-infinity radius in image units; FGSM steps by 2 epsilon, the others by epsilon / 4.
        seed: of the uniform starts; each attack starts anew from it.
        processes: of a run of many, which share the images out; every process gets the whole result.
        on_progress: called with the attack's name and the number of images done.
        attack_model: of `model`, for its default branch, in a precision of the caller's choice; attacks follow its gradient
            where its logits agree with the model's as far as its precision lets them. None: one in the model's own.
        stop: looked at before every batch; where one process of a run of many has a reason to stop, all stop.

    Raises:
        Stopped: `stop` has a reason; there is no result, and the model is as it was found.
        UserError: images, labels or a setting that do not fit, or a model for which no honest figure can be given: other
            logits at every call, logits that depend on the rest of the batch, no gradient, no right attack model.
        RunFailedError: an attack was asked for, and the logits are not finite, as after a training that has diverged.
    """
    names = parse_attacks(attacks)
    check_epsilon(epsilon)
    check_seed(seed)
    check_module(model)
    if torch.is_inference_mode_enabled():
        raise UserError(
            "torch.inference_mode() is on, in which no attack can find a gradient; call evaluate outside of it"
        )
    dtype, device = dtype_of(model), device_of(model)
    if dtype not in (torch.float32, torch.float64):
        raise UserError(
            f"{type(model).__name__} holds {str(dtype).removeprefix('torch.')} weights, and a robust accuracy is counted in "
            "float32; give model.float()"
        )
    prepared: list[tuple[Victim, dict[str, Perturb]]] = []
    found: list[Tensor] = []

    def take(batch: NumberedBatch) -> None:
        images, targets, positions = batch
        images = images.to(dtype)
        if not prepared:
            victim = _victim(model, images, names, epsilon, attack_model)
            generators = {name: torch.Generator(device).manual_seed(int(seed) + processes.rank) for name in names}
            prepared.append((victim, {name: REGISTRY[name].create(victim, generators[name]) for name in names}))
        victim, perturbs = prepared[0]
        _check_labels(targets, victim.num_classes)
        row = [positions, targets.cpu()]
        for name, perturb in perturbs.items():
            row.append(_predicted(model, perturb(images, targets), victim.layout).cpu())
            if on_progress is not None:
                on_progress(name, sum(part.shape[1] for part in found) + len(images))
        found.append(torch.stack(row))

    with in_eval_mode(model), torch.no_grad():
        in_rounds(numbered_batches(data, batch_size, device, processes), take, processes, stop)
    return Evaluation(_together(found, names, processes), epsilon)


def _victim(
    model: nn.Module, images: Tensor, names: tuple[str, ...], epsilon: float, given: AttackModel | None
) -> Victim:
    """The model and its attack model, once both have been found to be what they must be on the first images."""
    layout = (branch_names(model)[0],)
    sample = images[:CHECKED_IMAGES]
    try:
        logits = logits_of(model, sample, layout)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{type(model).__name__} cannot take images of shape {list(images.shape)} ({str(error).splitlines()[0]}); give "
            "images of the shape that it was made for"
        ) from error
    attack_model = None
    refusal = unsteadiness(model, sample, layout)
    follows = refusal is None and any(REGISTRY[name].follows_gradient for name in names)
    if follows and given is not None and given.verify(sample) is None:
        # gradients are not compared: half precision moves more of them over kinks than a bound could tell from a fault
        attack_model = given
    elif follows:
        attack_model = AttackModel(model, (layout,), dtype=dtype_of(model))
        refusal = attack_model.verify(sample)
        if refusal is None:
            difference = gradient_difference(model, partial(_along, attack_model, layout), sample, layout)
            if math.isnan(difference) and not bool(torch.isfinite(logits).all()):
                raise RunFailedError(
                    f"no accuracy is reported: the logits of {type(model).__name__} are not finite, as of a network whose "
                    "training has diverged; train it again at a lower learning rate (--optimizer.learning-rate)"
                )
            if not difference <= GRADIENT_TOLERANCE:
                refusal = (
                    f"the attack's image gradient differs from that of {type(model).__name__} itself by {difference:.0%} "
                    f"(at most {GRADIENT_TOLERANCE:.0%} is rounding's), so its robustness would be reported too high"
                )
    if refusal is not None:
        raise UserError(f"no accuracy is reported: {refusal}")
    return Victim(model=model, attack_model=attack_model, layout=layout, num_classes=logits.shape[1], epsilon=epsilon)


def _along(attack_model: AttackModel, layout: tuple[str, ...], images: Tensor, direction: Tensor) -> Tensor:
    return image_gradient(attack_model, images, lambda logits: direction, layout)


def _predicted(model: nn.Module, images: Tensor, layout: tuple[str, ...]) -> Tensor:
    logits = logits_of(model, images, layout)
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), NOT_FINITE)


def _check_labels(targets: Tensor, num_classes: int) -> None:
    lowest, highest = (int(bound) for bound in torch.aminmax(targets))
    if lowest < 0 or highest >= num_classes:
        raise UserError(
            f"labels range from {lowest} to {highest}, but the model tells {num_classes} classes apart; "
            f"labels must lie in 0..{num_classes - 1}"
        )


def _together(found: list[Tensor], names: tuple[str, ...], processes: Processes) -> Predictions:
    """The rows (positions, targets, predictions under each attack) of all processes, in the order of the images."""
    own = torch.cat([torch.empty(2 + len(names), 0, dtype=torch.int64), *found], dim=1)
    rows = torch.cat([part["rows"] for part in processes.gather({"rows": own})], dim=1)
    if not rows.shape[1]:
        raise UserError("the data hold no image; give at least one")
    indices, targets, *predicted = rows[:, rows[0].argsort()]
    return Predictions(indices=indices, targets=targets, predicted=dict(zip(names, predicted, strict=True)))
