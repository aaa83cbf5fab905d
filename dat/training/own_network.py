"""What `dat.Trainer` has to know of the caller's network, and the one thing that it changes in it."""

from __future__ import annotations

import torch
from torch import nn

from dat_engine.errors import UserError
from dat_engine.model.as_found import check_module, in_eval_mode
from dat_engine.model.branches import BranchedBatchNorm, branch_names, convert_batchnorm, has_batchnorm


def classes_of(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """How many classes the network tells apart.

    Raises:
        UserError: it takes no image of that shape, or does not give logits [B, K].
    """
    check_module(model)
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise UserError(f"{type(model).__name__} has no parameter that could be trained")
    if parameter.dtype != torch.float32:
        raise UserError(
            f"{type(model).__name__} holds {parameter.dtype} weights; give model.float(), precision is a setting"
        )
    with in_eval_mode(model), torch.no_grad():
        try:
            images = torch.zeros(2, *shape, device=parameter.device, dtype=parameter.dtype)
            logits = model(images)
            trained = model.train()(images)  # torchvision's GoogLeNet gives logits in eval mode alone
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{type(model).__name__} cannot take images of shape {[2, *shape]} ({(str(error).splitlines() or [''])[0]}); "
                "give images of the shape that it was made for"
            ) from error
    for given, mode in ((logits, "eval"), (trained, "training")):
        if not isinstance(given, torch.Tensor) or given.ndim != 2 or len(given) != 2:
            found = list(given.shape) if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
            raise UserError(
                f"{type(model).__name__} in {mode} mode gives {found} for 2 images; it must give logits [2, K]: switch "
                "auxiliary outputs off, or wrap it in a module that does"
            )
    return int(logits.shape[1])


def give_branches(model: nn.Module, branches: tuple[str, ...], *, groups: int) -> None:
    """Give the network's BatchNorm the branches that the method needs, in place; one that has them keeps them.

    Where the joint pass has several groups, one branch is given too: a plain BatchNorm would normalise them as one batch.
    """
    branched = any(isinstance(module, BranchedBatchNorm) for module in model.modules())
    enough = set(branches) <= set(branch_names(model)) if branched else len(branches) == 1 and groups == 1
    if has_batchnorm(model) and not enough:
        convert_batchnorm(model, branches)
