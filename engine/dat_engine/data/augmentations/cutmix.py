"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899): a rectangle of every image comes from another one, and so does its share
of the label.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dat_engine.data.augmentations.boxes import clipped_boxes, inside
from dat_engine.data.augmentations.interface import Draws
from dat_engine.data.batch import Batch
from dat_engine.errors import UserError

__all__ = ["CutMix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutMix:
    """Each image has a partner in its batch (a random permutation) and a box of its own, whose pixels are the partner's.

    The box is centred uniformly; its share of the area is drawn from Beta(1, 1), which is uniform, before what lies outside of
    the image is cut off. Labels are mixed by the area that the box really has.

    probability: share of the images that are mixed. The paper mixes all of them, and so does torchvision; the authors' code
    takes a flag, which is 0.5 in its commands for CIFAR.

    Raises UserError for a probability outside [0, 1].
    """

    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"CutMix's probability is {self.probability:g}; use a number in [0, 1]")

    def check(self, image_shape: tuple[int, int, int], batch_size: int) -> None:
        """Raise UserError for batches of one image, which has no partner."""
        if batch_size < 2:
            raise UserError(
                f"CutMix mixes the images of a batch with each other; use a batch of at least 2, not {batch_size}"
            )

    def draw(
        self,
        steps: int,
        batch_size: int,
        image_shape: tuple[int, int, int],
        generator: torch.Generator,
        device: torch.device,
    ) -> Draws:
        """For `steps` batches ``partner`` int64 [steps, B], positions in the batch, and ``box`` int32 [steps, B, 4], (top,
        left, bottom, right), empty where nothing is mixed.
        """
        _, height, width = image_shape
        count = steps * batch_size
        partner = torch.rand(steps, batch_size, generator=generator, device=device).argsort(dim=1)
        kept, chance = torch.rand(2, count, generator=generator, device=device)
        centre = torch.stack(
            [torch.randint(edge, (count,), generator=generator, device=device) for edge in (height, width)], dim=1
        )
        edges = torch.stack([torch.full_like(kept, height), torch.full_like(kept, width)], dim=1)
        half = (0.5 * (1 - kept).sqrt()[:, None] * edges).to(torch.int64)
        box = torch.where((chance < self.probability)[:, None], clipped_boxes(centre, half, height, width), 0)
        return {"partner": partner, "box": box.view(steps, batch_size, 4)}

    def apply(self, batch: Batch, draws: Draws, num_classes: int) -> Batch:
        """`batch`, whose targets are class numbers, with one step's draws: ``partner`` [B], ``box`` [B, 4].

        Images, originals and extra views are mixed with the same partners and boxes, so that the soft labels, float32 [B, K],
        are those of all of them.
        """
        partner, box = draws["partner"], draws["box"]
        height, width = batch.images.shape[2:]
        of_partner = inside(box, height, width)

        def mixed(images: Tensor) -> Tensor:
            return torch.where(of_partner, images.index_select(-4, partner), images)

        share = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / (height * width))[:, None]
        onehot = torch.zeros(len(partner), num_classes, device=share.device).scatter_(1, batch.targets[:, None], 1.0)
        return replace(
            batch,
            images=mixed(batch.images),
            originals=mixed(batch.originals),
            targets=(1 - share) * onehot + share * onehot[partner],
            extra_views=None if batch.extra_views is None else mixed(batch.extra_views),
        )
