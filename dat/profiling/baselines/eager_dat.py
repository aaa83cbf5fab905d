"""The DAT training step as published code runs it: eager PyTorch, 55 forward-equivalents. A baseline for timing.

One forward of one batch is F, a backward to the inputs F, a backward to the weights F. Per step: the forward that
conditions the generator 1F; two attacks of five steps, each with two forwards (the clean logits are computed anew)
and one backward to the inputs, 30F; four forwards and backwards for theta 12F; the same again for the generator
12F. The weights' gradients are not computed in the attacks. The mix runs through complex128 with angle and exp. The
phases are named for profiles, which changes nothing that is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dat.profiling.baselines.eager_networks import EagerAmplitudeGenerator, EagerResNet
from dat_engine.profile.ranges import named_range

EPSILON, STEP_SIZE, STEPS, START_SCALE = 8 / 255, 2 / 255, 5, 0.001
BETA, OMEGA, LABEL_SMOOTHING = 15.0, 2.0, 0.5
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
MIX_PADDING = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StepNoise:
    """All that a step draws at random, on the step's device."""

    z: Tensor  # [B, noise_size], standard normal
    lam: Tensor  # [B] float64 in [0, 1)
    start: Tensor  # [B, C, H, W], standard normal
    mix_start: Tensor  # [B, C, H, W], standard normal
    mix_offsets: Tensor  # [B, 2] int64 (dy, dx) in [-3, 3]
    mix_flip: Tensor  # [B] bool


class EagerDAT:
    """Model, generator, their optimizers, and one training step over them.

    `width` is the model's first stage (64 for ResNet-18); `dtype` is float32 for timing, float64 for comparisons.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        num_classes: int = 10,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        blocks: Sequence[int] = (2, 2, 2, 2),
        noise_size: int = 100,
        generator_widths: Sequence[int] = (128, 256, 512, 1024),
    ) -> None:
        self.noise_size = noise_size
        self.model = EagerResNet(width=width, num_classes=num_classes, blocks=blocks, in_channels=image_shape[0]).to(
            device, dtype
        )
        self.generator = EagerAmplitudeGenerator(
            num_classes=num_classes, image_shape=image_shape, noise_size=noise_size, widths=generator_widths
        ).to(device, dtype)
        self.model_optimizer, self.generator_optimizer = (
            torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
            for network in (self.model, self.generator)
        )

    def step(self, images: Tensor, originals: Tensor, targets: Tensor, noise: StepNoise | None = None) -> Tensor:
        """One step on augmented images and their originals, both [B, C, H, W] in [0, 1]; L_DAT of the theta pass.

        `noise` is drawn anew when not given. The loss is a 0-dim tensor on the device: reading it synchronises.
        """
        noise = noise or draw_noise(images, noise_size=self.noise_size)
        self.model.eval()
        with torch.no_grad(), named_range("clean forward"):
            conditioning_logits = self.model(originals, "base")
        with named_range("mix"):
            amplitude = self.generator(noise.z, conditioning_logits)
            mixed = crop_and_flip(mix_amplitude(originals, amplitude, noise.lam), noise.mix_offsets, noise.mix_flip)
        with named_range("attack"):
            adversarial = self.perturb(images, targets, noise.start, "base")
            mixed_adversarial = self.perturb(mixed, targets, noise.mix_start, "mix")

        self.model.train()
        with named_range("joint"):
            loss = self.joint_loss(images, adversarial, mixed.detach(), mixed_adversarial.detach(), targets)
            self.model_optimizer.zero_grad()
            loss.backward()
        with named_range("optimizer"):
            self.model_optimizer.step()

        with named_range("joint"):
            generator_loss = -self.joint_loss(images, adversarial, mixed, mixed_adversarial, targets)
            self.generator_optimizer.zero_grad()
            generator_loss.backward()
        with named_range("optimizer"):
            self.generator_optimizer.step()
        return loss.detach()

    def perturb(self, images: Tensor, targets: Tensor, start_noise: Tensor, branch: str) -> Tensor:
        """x' for x = images, attached to x through the last projection."""
        adversarial = (images.detach() + START_SCALE * start_noise).clamp(0, 1)
        for _ in range(STEPS):
            adversarial = adversarial.detach().requires_grad_()
            adversarial_logits, clean_logits = self.model(adversarial, branch), self.model(images, branch)
            loss = F.cross_entropy(adversarial_logits, targets, label_smoothing=LABEL_SMOOTHING)
            loss = loss + BETA * kl_divergence(clean_logits, adversarial_logits)
            (gradient,) = torch.autograd.grad(loss, [adversarial])
            adversarial = adversarial.detach() + STEP_SIZE * gradient.sign()
            adversarial = torch.min(torch.max(adversarial, images - EPSILON), images + EPSILON).clamp(0, 1)
        return adversarial

    def joint_loss(
        self, images: Tensor, adversarial: Tensor, mixed: Tensor, mixed_adversarial: Tensor, targets: Tensor
    ) -> Tensor:
        """L_DAT by four forwards, each its own BatchNorm batch."""
        logits, adversarial_logits = self.model(images, "base"), self.model(adversarial, "base")
        mixed_logits, mixed_adversarial_logits = self.model(mixed, "mix"), self.model(mixed_adversarial, "mix")
        base_loss = F.cross_entropy(logits, targets, label_smoothing=LABEL_SMOOTHING)
        base_loss = base_loss + BETA * kl_divergence(logits, adversarial_logits)
        mix_loss = F.cross_entropy(mixed_logits, targets, label_smoothing=LABEL_SMOOTHING)
        mix_loss = mix_loss + BETA * kl_divergence(mixed_logits, mixed_adversarial_logits)
        return (base_loss + mix_loss) / 2 + OMEGA * jensen_shannon(logits, mixed_logits)


def draw_noise(images: Tensor, *, noise_size: int) -> StepNoise:
    """Random numbers for one step on `images`, from the default generator of their device."""
    batch, device = images.shape[0], images.device
    return StepNoise(
        z=torch.randn(batch, noise_size, device=device, dtype=images.dtype),
        lam=torch.rand(batch, device=device, dtype=torch.float64),
        start=torch.randn_like(images),
        mix_start=torch.randn_like(images),
        mix_offsets=torch.randint(-MIX_PADDING, MIX_PADDING + 1, (batch, 2), device=device),
        mix_flip=torch.rand(batch, device=device) < 0.5,
    )


def mix_amplitude(images: Tensor, centred_amplitude: Tensor, lam: Tensor) -> Tensor:
    """x̂ before its augmentation, in the dtype of `images`: amplitudes mixed, phases kept, all in complex128."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(images.double()), dim=(-2, -1))
    amplitude, phase = spectrum.abs(), spectrum.angle()
    weight = lam.double().reshape(-1, 1, 1, 1)
    mixed_spectrum = (weight * centred_amplitude + (1 - weight) * amplitude) * torch.exp(1j * phase)
    mixed = torch.fft.ifft2(torch.fft.ifftshift(mixed_spectrum, dim=(-2, -1))).real
    return mixed.clamp(0, 1).to(images.dtype)


def crop_and_flip(images: Tensor, offsets: Tensor, flip: Tensor) -> Tensor:
    """out[b, c, y, x] = images[b, c, y + dy, x_ + dx], 0 outside, x_ = W-1-x where flip[b]; |dy|, |dx| <= 3."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (MIX_PADDING,) * 4)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = torch.where(flip[:, None], columns.flip(1), columns) + offsets[:, 1:] + MIX_PADDING
    rows = torch.arange(height, device=images.device) + offsets[:, :1] + MIX_PADDING
    padded_width = width + 2 * MIX_PADDING
    cropped = padded.gather(2, rows[:, None, :, None].expand(batch, channels, height, padded_width))
    return cropped.gather(3, columns[:, None, None, :].expand(batch, channels, height, width))


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(softmax p ‖ softmax q), batchmean, neither side detached."""
    return F.kl_div(F.log_softmax(logits_q, dim=1), F.softmax(logits_p, dim=1), reduction="batchmean")


def jensen_shannon(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """JS of the two softmax outputs, mixture clamped to [1e-7, 1]."""
    p, q = F.softmax(logits_p, dim=1), F.softmax(logits_q, dim=1)
    log_mixture = ((p + q) / 2).clamp(1e-7, 1).log()
    divergence_p = F.kl_div(log_mixture, p, reduction="batchmean")
    divergence_q = F.kl_div(log_mixture, q, reduction="batchmean")
    return (divergence_p + divergence_q) / 2
