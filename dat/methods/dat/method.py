"""Dual Adversarial Training (Li et al., NeurIPS 2024): attack the image and its amplitude-mixed twin, train on all four.

A generator invents amplitudes; mixed with the image's own under the image's phase they give the second image. Classifier
and generator play a min-max game over one loss. Ablations leave parts of it out, and nothing is computed for those.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dat.losses import (
    adversarial_training_loss,
    dat_attack_targets,
    dual_loss_terms,
    js_divergence,
    smoothed_targets,
    soft_target_ascent,
)
from dat.methods.dat import DAT
from dat.methods.dat.amplitude import mean_amplitude
from dat.methods.dat.clean_forwards import CleanForwards
from dat.methods.dat.generator import AmplitudeGenerator
from dat.methods.dat.other_images import draw_others
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, along_projection, draw_start, pgd_attack
from dat_engine.data import Augmentation, Batch, RandomResizedCrop, draw_augmentation
from dat_engine.errors import UserError
from dat_engine.profile.ranges import named_range
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.players import Player
from dat_engine.step.progress import TrainingProgress
from dat_kernels import amplitude_mix

_GROUPS = ("clean", "adversarial", "mixed", "mixed_adversarial")


class DATMethod(Method):
    """See the module; `examples` gives x, x', the mixed image and its x', in that order, those of them that are in `groups`."""

    takes_soft_labels = True
    generator: AmplitudeGenerator
    """Where the settings have one."""

    def __init__(self, settings: DAT, task: Task) -> None:
        self.settings = settings
        self.num_classes = task.num_classes
        self.attack = AttackSettings(
            epsilon=task.epsilon,
            step_size=task.step_size(settings.step_size),
            steps=settings.steps,
            start=settings.attack_start,
            start_scale=settings.start_scale,
        )
        if settings.has_generator:
            self.generator = AmplitudeGenerator(
                task.num_classes,
                task.image_shape,
                amplitude_scale=_amplitude_scale(settings, task),
                coarse_size=settings.coarse_amplitude,
            )
            self.generate: nn.Module = self.generator
        self.augmentation = mixed_augmentation(settings, task.augmentation)
        self.update = settings.generator_update
        self.groups = tuple(name for name in _GROUPS if _is_trained_on(name, settings))
        self.adversarial_group = self.groups.index("adversarial")
        self._mix_branch = "mix" if settings.branches == "split" else "base"
        self.layout = tuple(self._mix_branch if name.startswith("mixed") else "base" for name in self.groups)
        self._attacks_mixed = settings.mixed_image and settings.adversarial == "dual"
        # in eval mode the groups of one branch are one batch
        self._attacked = tuple(dict.fromkeys(("base", self._mix_branch))) if self._attacks_mixed else ("base",)
        self._needs_clean_logits = settings.attack_loss != "cross-entropy" or settings.first_step == "clean"
        self.attack_layouts = self._attack_layouts()

    def _attack_layouts(self) -> tuple[tuple[str, ...], ...]:
        if not self.settings.has_generator:
            return (self._attacked,)
        mixed = (self._mix_branch,) if self._attacks_mixed and self._needs_clean_logits else ("base",)
        return tuple(dict.fromkeys((("base",), mixed, self._attacked)))

    def players(self, model: nn.Module) -> tuple[Player, ...]:
        """The classifier descends what the generator ascends."""
        classifier = Player(name="model", network=model)
        if not self.settings.has_generator:
            return (classifier,)
        generator = Player(
            name="generator",
            network=self.generator,
            direction="ascend",
            optimizer=self.settings.generator_optimizer,
            use=self._generate_by,
        )
        return (classifier, generator)

    def _generate_by(self, generate: nn.Module) -> None:
        self.generate = generate

    def draw_noise(self, batch: Batch, generator: torch.Generator) -> Noise:
        """What is used of ``latent`` [B, 100], ``other`` [B] (int64), ``lam`` [B], ``start`` of all attacked views together,
        ``crop_offsets`` and ``flip``.
        """
        settings, images, size = self.settings, batch.images, batch.images.shape[0]
        noise: dict[str, Tensor] = {}
        if settings.has_generator:
            noise["latent"] = images.new_empty(size, self.generator.latent_dim).normal_(generator=generator)
        elif settings.mixed_image:
            noise["other"] = draw_others(size, generator, images.device)
        if settings.mixed_image:
            noise["lam"] = images.new_empty(size).uniform_(settings.lam_low, settings.lam_high, generator=generator)
        if settings.first_step == "fresh":
            noise["start"] = draw_start(generator)
        if settings.mixed_image and settings.mix_source == "original":
            noise["crop_offsets"], noise["flip"] = draw_augmentation(self.augmentation, size, generator, images.device)
        return noise

    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        assert attack_model is not None
        settings, views, clean = self.settings, {"clean": batch.images}, None
        forwards = CleanForwards(attack_model, keeps_graph=settings.first_step == "clean")
        if settings.mixed_image:
            source = batch.originals if settings.mix_source == "original" else batch.images
            with named_range("clean forward"):
                clean, condition = self._before_the_mix(attack_model, forwards, batch)
            with named_range("mix"):
                amplitude = self._amplitude(source, noise, condition)
                if self._attacks_mixed or settings.trains_on_clean:
                    views["mixed"] = _mix(source, amplitude, noise)
        if self._attacks_mixed:
            pair = [batch.images, views["mixed"]]
            attacked = self._attack(attack_model, forwards, pair, clean, batch.targets, noise)
            views["adversarial"], views["mixed_adversarial"] = attacked
        else:
            (views["adversarial"],) = self._attack(attack_model, forwards, [batch.images], clean, batch.targets, noise)
        if settings.mixed_image and settings.adversarial == "single":
            with named_range("mix"):
                seen = amplitude if settings.attack_path_gradient else amplitude.detach()
                views["mixed_adversarial"] = _mix(views["adversarial"], seen, noise)
        return Examples(groups=tuple(views[name] for name in self.groups))

    def _before_the_mix(
        self, attack_model: AttackModel, forwards: CleanForwards, batch: Batch
    ) -> tuple[Tensor | None, Tensor | None]:
        """f(x), where it is known so early and of use, and the logits that condition the generator."""
        if not self.settings.has_generator:
            return None, None
        if self.settings.mix_source == "augmented":
            condition = forwards(batch.images)
            return (condition if self._needs_clean_logits else None), condition
        if self._needs_clean_logits and self.settings.first_step == "fresh":
            clean, condition = forwards(torch.cat([batch.images, batch.originals])).chunk(2)
            return clean, condition
        # no first gradient is wanted of the un-augmented image; that of x comes in one pass with the mixed image's
        with torch.no_grad():
            return None, attack_model.logits(batch.originals)

    def _amplitude(self, source: Tensor, noise: Noise, condition: Tensor | None) -> Tensor:
        """What is mixed into the amplitude of `source`: [B, C, H, W], plain FFT order."""
        if not self.settings.has_generator:
            return torch.fft.fft2(source[noise["other"]]).abs()
        amplitude: Tensor = self.generate(noise["latent"], condition)
        return amplitude

    def _attack(
        self,
        attack_model: AttackModel,
        forwards: CleanForwards,
        views: list[Tensor],
        clean: Tensor | None,
        targets: Tensor,
        noise: Noise,
    ) -> tuple[Tensor, ...]:
        """x' of every view, the mixed image's as a function of it where a generator sees through the attack.

        `clean` is f(x), where it is known; x is the first view.
        """
        images = torch.cat([view.detach() for view in views])
        if self._needs_clean_logits:
            with named_range("clean forward"):
                if clean is None:
                    clean = forwards(images, self._attacked)
                elif len(views) == 2:
                    clean = torch.cat([clean, forwards(views[1].detach(), (self._mix_branch,))])
        soft_targets = self._soft_targets(clean, torch.cat([targets] * len(views)), images.dtype)
        first_gradient = forwards.first_gradient(soft_targets)
        active = None
        if len(views) == 2 and self.settings.has_generator and self.settings.attack_path_gradient:
            active = torch.empty_like(images, dtype=torch.bool, memory_format=attack_model.memory_format)
        attacked = pgd_attack(
            attack_model,
            images,
            soft_target_ascent(soft_targets),
            self.attack,
            noise["start"] if first_gradient is None else None,
            layout=self._attacked,
            active=active,
            first_gradient=first_gradient,
        ).chunk(len(views))
        if active is None:
            return attacked
        return attacked[0], along_projection(views[1], attacked[1], active.chunk(2)[1])

    def _soft_targets(self, clean: Tensor | None, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """What the attack's loss is a cross entropy against, up to a constant (`soft_target_ascent`)."""
        settings = self.settings
        if settings.attack_loss == "cross-entropy":
            return smoothed_targets(targets, self.num_classes, settings.label_smoothing, dtype)
        assert clean is not None
        if settings.attack_loss == "kl":
            return clean.softmax(dim=1)
        return dat_attack_targets(clean, targets, beta=settings.beta, label_smoothing=settings.label_smoothing)

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        settings, logits = self.settings, dict(zip(self.groups, joint.logits, strict=True))
        clean_loss = self._adversarial_training_loss(logits, "clean", "adversarial", joint.targets)
        if not settings.mixed_image:
            return {"loss": clean_loss}
        mixed_loss = self._adversarial_training_loss(logits, "mixed", "mixed_adversarial", joint.targets)
        js = js_divergence(logits["clean"], logits["mixed"]) if settings.trains_on_clean else None
        return dual_loss_terms(clean_loss, mixed_loss, js, omega=settings.omega)

    def _adversarial_training_loss(
        self, logits: dict[str, Tensor], clean: str, adversarial: str, targets: Tensor
    ) -> Tensor:
        smoothing = self.settings.label_smoothing
        if self.settings.training_loss == "pgd-at":
            return functional.cross_entropy(logits[adversarial], targets, label_smoothing=smoothing)
        return adversarial_training_loss(
            logits[clean], logits[adversarial], targets, beta=self.settings.beta, label_smoothing=smoothing
        )


def _is_trained_on(group: str, settings: DAT) -> bool:
    """Whether the loss holds predictions on that group of the joint pass."""
    if group.startswith("mixed") and not settings.mixed_image:
        return False
    return group.endswith("adversarial") or settings.trains_on_clean


def _mix(images: Tensor, amplitude: Tensor, noise: Noise) -> Tensor:
    return amplitude_mix(
        images, amplitude, noise["lam"], crop_offsets=noise.get("crop_offsets"), flip=noise.get("flip")
    )


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
