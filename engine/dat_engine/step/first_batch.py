"""A look at the first batch of a run: what would train without a word and teach nothing is refused there.

Attacks are clipped to [0, 1], epsilon is measured in it and amplitudes are mixed in it, so images of another range give
numbers that look like training. The look waits for the device, which is why there is one in a run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dat_engine import private_torch
from dat_engine.data import Batch, DataError
from dat_engine.data.arrays import UNIT_TOLERANCE


def check_first_batch(batch: Batch, model: nn.Module, *, extra_views: int = 0, takes_soft_labels: bool = False) -> None:
    """Hold a batch to what `dat_engine.data.Batch` promises and to what `model` (on the batch's device) takes and gives.

    Neither the model nor a random state is changed. `extra_views`: how many the method needs. Where soft labels are taken,
    targets may be [B, K] probabilities.

    Raises:
        DataError: images or originals that are not floating-point [B, C, H, W] in [0, 1], a number of channels that the
            model does not take, targets that are not int64 [B] or not one of the model's classes, extra views that are missing.
    """
    for name, images in (("images", batch.images), ("originals", batch.originals)):
        check_images(f"first batch's {name}", images)
    if batch.originals.shape != batch.images.shape:
        raise DataError(
            f"the first batch holds images of shape {tuple(batch.images.shape)} and originals of shape "
            f"{tuple(batch.originals.shape)}; give both views of the same samples in one size"
        )
    _check_extra_views(batch, extra_views)
    targets = batch.targets
    if targets.is_floating_point() and targets.ndim == 2:
        if not takes_soft_labels:
            raise DataError(
                f"the first batch's targets are soft labels of shape {tuple(targets.shape)} and this method needs one class "
                "number per image; give int64 targets, targets.argmax(1) for instance, or use a method that takes soft labels"
            )
        check_soft_labels("first batch's soft labels", targets, len(batch.images), _classes(model, batch.images[:1]))
        return
    if targets.dtype != torch.int64 or targets.shape != batch.images.shape[:1]:
        raise DataError(
            f"the first batch's targets are {targets.dtype} of shape {tuple(targets.shape)}; training needs one class number "
            f"per image, int64 [{len(batch.images)}]: convert with targets.long(), one-hot targets with targets.argmax(1)"
        )
    classes = _classes(model, batch.images[:1])
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or (classes is not None and highest >= classes):
        room = "0 or more" if classes is None else f"0..{classes - 1}, the model having {classes} classes"
        raise DataError(
            f"the first batch's targets run from {lowest} to {highest}; they must lie in {room}: number the classes from 0, "
            "or build the model for more of them"
        )


def check_soft_labels(what: str, targets: Tensor, images: int, classes: int | None) -> None:
    """Raise DataError unless `targets`, called `what`, are one row of probabilities for each image, float [B, K]."""
    if len(targets) != images or (classes is not None and targets.shape[1] != classes):
        raise DataError(
            f"the {what} have the shape {tuple(targets.shape)} for {images} images"
            f"{'' if classes is None else f' and a model of {classes} classes'}; give one row of class probabilities per image"
        )
    sums = targets.sum(dim=1)
    if not (bool((targets >= 0).all()) and bool(((sums - 1).abs() <= UNIT_TOLERANCE).all())):  # NaN fails too
        raise DataError(
            f"the {what} have rows that sum to {float(sums.min()):.4g}..{float(sums.max()):.4g} or values "
            "below 0; each row must be probabilities that sum to 1: divide it by its sum, logits go through softmax"
        )


def check_images(what: str, images: Tensor) -> None:
    """Raise DataError unless `images`, called `what` ("first batch's images"), are floating-point [B, C, H, W] in [0, 1]."""
    name = what.rpartition("'s ")[2]
    if not images.is_floating_point():
        raise DataError(
            f"the {what} are {images.dtype}; training needs floating-point {name} in [0, 1]: "
            f"convert with {name}.float() / 255"
        )
    if images.ndim != 4 or images.numel() == 0:
        raise DataError(
            f"the {what} have the shape {tuple(images.shape)}; training needs [B, C, H, W]: "
            "add the axis that is missing, e.g. one channel with unsqueeze(1)"
        )
    bad = int((~torch.isfinite(images)).sum())
    if bad:
        raise DataError(
            f"the {what} hold {bad} values that are not finite; training needs {name} in [0, 1]: "
            "look for damaged data or a division by zero where they are made"
        )
    lowest, highest = (float(value) for value in torch.aminmax(images))
    if lowest < -UNIT_TOLERANCE or highest > 1 + UNIT_TOLERANCE:
        raise DataError(
            f"the {what} lie in [{lowest:.4g}, {highest:.4g}]; training needs [0, 1], where attacks are "
            f"clipped and epsilon is measured: {_remedy(lowest, highest)}"
        )


def _check_extra_views(batch: Batch, needed: int) -> None:
    views = batch.extra_views
    found = 0 if views is None else len(views)
    if found < needed:
        raise DataError(
            f"the first batch holds {found} extra views of its images and the method needs {needed}; open the loader with "
            f"extra_views={needed}"
        )
    if views is None:
        return
    if views.shape[1:] != batch.images.shape:
        raise DataError(
            f"the first batch's extra views have the shape {tuple(views.shape)}; training needs [V, B, C, H, W], V views of "
            f"images of shape {tuple(batch.images.shape)}"
        )
    check_images("first batch's extra views", views.flatten(0, 1))


def _remedy(lowest: float, highest: float) -> str:
    if lowest > -0.25 and highest < 1.25:  # bicubic interpolation, sharpening
        return "clamp them with clamp(0, 1)"
    if lowest < -UNIT_TOLERANCE:
        return "leave them in [0, 1] and move the normalisation by mean and standard deviation into the model's first layer"
    return "divide them by 255" if highest <= 255 else "divide them by the largest value that they can have"


def _classes(model: nn.Module, image: Tensor) -> int | None:
    """How many logits the model gives for an image [1, C, H, W]; None where it does not give [1, K]."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    parameter = next(model.parameters())
    training = [(module, module.training) for module in model.modules()]
    # eval: no statistics, no random numbers; what counts or records operations is not told of this one
    model.eval()
    try:
        with torch.no_grad(), private_torch.without_dispatch_modes():
            logits = model(image.to(parameter.dtype))
    except RuntimeError as error:
        if first is not None and first.in_channels != image.shape[1]:
            raise DataError(
                f"the first batch's images are [B, {', '.join(map(str, image.shape[1:]))}] and the model takes "
                f"{first.in_channels} channels: build the model with in_channels={image.shape[1]}, or convert the images"
            ) from error
        raise
    finally:
        for module, mode in training:
            module.training = mode
    return logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
