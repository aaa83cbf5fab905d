"""The PGD-AT training step as published code runs it: eager PyTorch, 23 forward-equivalents. A baseline for timing.

Ten attack steps of one forward and one backward to the inputs (20F), then one forward and backward of the
adversarial images (3F); see `dat.profiling.baselines.eager_dat` for the unit F.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dat.profiling.baselines.eager_networks import EagerResNet
from dat_engine.profile.ranges import named_range

EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


class EagerPGDAT:
    """Model, optimizer and one training step; the model's second BatchNorm set is never used and costs nothing."""

    def __init__(
        self,
        *,
        width: int = 64,
        num_classes: int = 10,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        blocks: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        self.model = EagerResNet(width=width, num_classes=num_classes, blocks=blocks, in_channels=image_shape[0]).to(
            device, dtype
        )
        self.model_optimizer = torch.optim.SGD(
            self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )

    def step(
        self, images: Tensor, originals: Tensor | None, targets: Tensor, start_noise: Tensor | None = None
    ) -> Tensor:
        """One step on images [B, C, H, W] in [0, 1]; the loss, 0-dim, on the device.

        `originals` is there so that both baselines are called alike, and is not read. `start_noise` is uniform in
        [-1, 1], scaled by epsilon here, and drawn anew when not given.
        """
        if start_noise is None:
            start_noise = torch.empty_like(images).uniform_(-1, 1)
        with named_range("attack"):
            adversarial = self.perturb(images, targets, start_noise)
        self.model.train()
        with named_range("joint"):
            loss = F.cross_entropy(self.model(adversarial), targets)
            self.model_optimizer.zero_grad()
            loss.backward()
        with named_range("optimizer"):
            self.model_optimizer.step()
        return loss.detach()

    def perturb(self, images: Tensor, targets: Tensor, start_noise: Tensor) -> Tensor:
        """x' that maximises the cross entropy, found in eval mode."""
        self.model.eval()
        adversarial = (images + EPSILON * start_noise).clamp(0, 1)
        for _ in range(STEPS):
            adversarial.requires_grad_()
            loss = F.cross_entropy(self.model(adversarial), targets)
            (gradient,) = torch.autograd.grad(loss, [adversarial])
            adversarial = adversarial.detach() + STEP_SIZE * gradient.sign()
            adversarial = torch.min(torch.max(adversarial, images - EPSILON), images + EPSILON).clamp(0, 1)
        return adversarial
