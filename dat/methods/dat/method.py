"""Dual Adversarial Training (Li et al., NeurIPS 2024): attack the image and its amplitude-mixed twin, train on all four.

A generator invents amplitudes; mixed with the image's own under the image's phase they give the second image. Classifier
and generator play a min-max game over one loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dat.losses import dat_attack_targets, dat_loss_terms, soft_target_ascent
from dat.methods.dat import DAT
from dat.methods.dat.amplitude import mean_amplitude
from dat.methods.dat.generator import AmplitudeGenerator
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, CleanPass, along_projection, draw_start, pgd_attack
from dat_engine.data import Augmentation, Batch, RandomResizedCrop, draw_augmentation
from dat_engine.errors import UserError
from dat_engine.profile.ranges import named_range
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.players import Player
from dat_engine.step.progress import TrainingProgress
from dat_kernels import amplitude_mix


class DATMethod(Method):
    """See the module; `examples` gives x, x', the mixed image and its x', in that order."""

    layout = ("base", "base", "mix", "mix")
    attack_layouts = (("base",), ("mix",), ("base", "mix"))
    adversarial_group = 1
    takes_soft_labels = True

    def __init__(self, settings: DAT, task: Task) -> None:
        self.settings = settings
        self.attack = AttackSettings(
            epsilon=task.epsilon,
            step_size=task.epsilon / 4 if settings.step_size is None else settings.step_size,
            steps=settings.steps,
            start="gaussian",
            start_scale=settings.start_scale,
        )
        self.generator = AmplitudeGenerator(
            task.num_classes,
            task.image_shape,
            amplitude_scale=_amplitude_scale(settings, task),
            coarse_size=settings.coarse_amplitude,
        )
        self.generate: nn.Module = self.generator
        self.augmentation = mixed_augmentation(settings, task.augmentation)
        self.update = settings.generator_update

    def players(self, model: nn.Module) -> tuple[Player, ...]:
        """The classifier descends what the generator ascends."""
        generator = Player(
            name="generator",
            network=self.generator,
            direction="ascend",
            optimizer=self.settings.generator_optimizer,
            use=self._generate_by,
        )
        return (Player(name="model", network=model), generator)

    def _generate_by(self, generate: nn.Module) -> None:
        self.generate = generate

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """``latent`` [B, 100], ``lam`` [B]; if used ``start``, ``mixed_start`` [B, C, H, W], ``crop_offsets``, ``flip``."""
        images, size = batch.images, batch.images.shape[0]
        noise = {
            "latent": images.new_empty(size, self.generator.latent_dim).normal_(generator=generator),
            "lam": images.new_empty(size).uniform_(generator=generator),
        }
        if self.settings.first_step == "fresh":
            noise["start"] = draw_start(images, self.attack, generator)
            noise["mixed_start"] = draw_start(images, self.attack, generator)
        if self.settings.mix_source == "original":
            noise["crop_offsets"], noise["flip"] = draw_augmentation(self.augmentation, size, generator, images.device)
        return noise

    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        assert attack_model is not None
        images, mixed_from_original = batch.images, self.settings.mix_source == "original"
        passes: list[CleanPass] = []
        with torch.no_grad(), named_range("clean forward"):
            if self.settings.first_step == "clean":
                # a first gradient at x and at the mixed image: both in one pass where the mix does not wait for f(x)
                if mixed_from_original:
                    condition = attack_model.logits(batch.originals)
                else:
                    passes.append(CleanPass(attack_model, images))
                    condition = passes[0].logits
            elif mixed_from_original:
                clean, condition = attack_model.logits(torch.cat([images, batch.originals])).chunk(2)
            else:
                clean = condition = attack_model.logits(images)
        with named_range("mix"):
            mixed = self._mixed(batch.originals if mixed_from_original else images, noise, condition)
        both = torch.cat([images, mixed.detach()])
        with torch.no_grad(), named_range("clean forward"):
            if self.settings.first_step == "fresh":
                clean_logits = torch.cat([clean, attack_model.logits(mixed.detach(), ("mix",))])
            else:
                if mixed_from_original:
                    passes.append(CleanPass(attack_model, both, ("base", "mix")))
                else:
                    passes.append(CleanPass(attack_model, mixed, ("mix",)))
                clean_logits = torch.cat([each.logits for each in passes])
        soft_targets = dat_attack_targets(
            clean_logits,
            torch.cat([batch.targets, batch.targets]),
            beta=self.settings.beta,
            label_smoothing=self.settings.label_smoothing,
        )
        first_gradient = _first_gradient(passes, soft_targets) if passes else None
        active = None
        if self.settings.attack_path_gradient:
            active = torch.empty_like(both, dtype=torch.bool, memory_format=attack_model.memory_format)
        adversarial, mixed_adversarial = pgd_attack(
            attack_model,
            both,
            soft_target_ascent(soft_targets),
            self.attack,
            None if passes else torch.cat([noise["start"], noise["mixed_start"]]),
            layout=("base", "mix"),
            active=active,
            first_gradient=first_gradient,
        ).chunk(2)
        if active is not None:
            mixed_adversarial = along_projection(mixed, mixed_adversarial, active.chunk(2)[1])
        return Examples(groups=(images, adversarial, mixed, mixed_adversarial))

    def _mixed(self, source: Tensor, noise: Noise, condition: Tensor) -> Tensor:
        amplitude = self.generate(noise["latent"], condition)
        return amplitude_mix(
            source, amplitude, noise["lam"], crop_offsets=noise.get("crop_offsets"), flip=noise.get("flip")
        )

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        clean, adversarial, mixed, mixed_adversarial = joint.logits
        return dat_loss_terms(
            clean,
            adversarial,
            mixed,
            mixed_adversarial,
            joint.targets,
            beta=self.settings.beta,
            omega=self.settings.omega,
            label_smoothing=self.settings.label_smoothing,
        )


def _first_gradient(passes: list[CleanPass], soft_targets: Tensor) -> Tensor:
    """At the images of all passes together. There the KL term's gradient is 0: its target is f(x) itself."""
    parts = zip(passes, soft_targets.chunk(len(passes)), strict=True)
    return torch.cat([each.gradient(soft_target_ascent(targets)) for each, targets in parts])


def mixed_augmentation(settings: DAT, own: Augmentation | RandomResizedCrop) -> Augmentation:
    """Crop and flip of the mixed image, which is augmented after it is mixed: the data set's `own` unless settings say.

    A random resized crop is cut out of a file's pixels, which the mixed image is not made of, and puts no zeros around
    an image: there the mixed image is not cropped.
    """
    padding = own.padding if isinstance(own, Augmentation) else 0
    return Augmentation(
        padding=padding if settings.mix_padding is None else settings.mix_padding,
        flip=own.flip if settings.mix_flip is None else settings.mix_flip,
    )


def _amplitude_scale(settings: DAT, task: Task) -> Tensor | None:
    if settings.amplitude_scale == "unit":
        return None
    if task.training_images is None:
        raise UserError(
            "amplitude_scale dataset takes the mean amplitude of the training images; there are none, use unit"
        )
    return mean_amplitude(task.training_images())
