"""Settings of Dual Adversarial Training and of its ablations; `dat.methods.dat.method` is what it does."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Literal

from dat.methods.base import MethodEntry
from dat.methods.checks import check_label_smoothing, check_weights
from dat_engine.errors import UserError
from dat_engine.step.optimizer_settings import OptimizerSettings, SGDSettings

_OF_THE_MIXED_IMAGE = (
    *("adversarial", "branches", "mix_source", "amplitude_from", "lam_low", "lam_high", "amplitude_scale"),
    *("attack_path_gradient", "generator_update", "mix_flip", "generator_optimizer"),
)
_OF_THE_GENERATOR = ("amplitude_scale", "attack_path_gradient", "generator_update", "generator_optimizer")


@dataclass(frozen=True, kw_only=True, slots=True)
class DAT:
    """Settings of Dual Adversarial Training."""

    beta: float = 15.0
    """Weight of the KL divergence, in the attack and in the loss."""
    omega: float = 2.0
    """Weight of the JS divergence between the predictions on x and on its mixed twin; 0: none."""
    label_smoothing: float = 0.5
    """In the attack and in training; 0.5 is what the authors' code runs, the paper names none."""
    training_loss: Literal["trades", "pgd-at"] = "trades"
    """L_AT, of x and of the mixed image alike: cross entropy of the image plus beta KL to the attacked one (published), or
    the cross entropy of the attacked one alone: PGD-AT with the generator."""
    attack_loss: Literal["both", "cross-entropy", "kl"] = "both"
    """What the attack maximises: cross entropy plus beta KL (published), or one of the two alone."""
    steps: int = 5
    step_size: float | None = None
    """None: a quarter of epsilon."""
    attack_start: Literal["gaussian", "uniform"] = "gaussian"
    """Where the attack starts: beside the image (published), or anywhere in the box, as PGD-AT does."""
    start_scale: float = 0.001
    """Standard deviation of the gaussian start."""
    first_step: Literal["fresh", "clean"] = "fresh"
    """Attack's first gradient: at the noisy start (published), or at the image itself, by the clean forward that the KL term
    needs anyway: no start noise, and 33 forward-equivalents a step instead of 35."""
    mixed_image: bool = True
    """Whether there is a mixed image. Without one the loss is L_AT(x), and nothing is mixed, generated or compared."""
    adversarial: Literal["dual", "single"] = "dual"
    """x̂' by an attack of its own on the mixed image (published), or by mixing the same amplitude into x': half the attack."""
    branches: Literal["split", "shared"] = "split"
    """BatchNorm of the mixed images: a set of their own (published), or the one of x."""
    mix_source: Literal["original", "augmented"] = "original"
    """Image that is mixed: the un-augmented one, augmented afterwards (authors' code), or x itself (the paper's text)."""
    mix_padding: int | None = None
    """Padding of the mixed image's own random crop; None: the data set's (none where it crops resized windows)."""
    mix_flip: bool | None = None
    """Whether the mixed image is flipped at random; None: where the data set's own images are."""
    lam_low: float = 0.0
    """The share lam of the foreign amplitude is drawn from Uniform(lam_low, lam_high), for every image; both 1: that alone."""
    lam_high: float = 1.0
    """See lam_low."""
    amplitude_from: Literal["generator", "other-image"] = "generator"
    """Amplitude that is mixed in: a generated one (published), or that of another image of the batch, drawn at random."""
    amplitude_scale: Literal["unit", "dataset"] = "unit"
    """Range of generated amplitudes: [0, 1] (authors' code), or [0, mean amplitude of the training set] per frequency."""
    coarse_amplitude: int | None = None
    """None: the generator predicts every frequency (published); S: an S x S amplitude, interpolated (large images)."""
    attack_path_gradient: bool = True
    """Whether the generator also sees the gradient through the attacked mixed image."""
    generator_update: Literal["joint", "alternating"] = "joint"
    """One backward for both players, or the authors' second forward at the new weights ("alternating")."""
    generator_optimizer: OptimizerSettings = field(default_factory=SGDSettings)
    """The generator's; its rate is constant."""

    def __post_init__(self) -> None:
        check_weights(beta=self.beta, omega=self.omega)
        check_label_smoothing(self.label_smoothing)
        if self.mix_padding is not None and self.mix_padding < 0:
            raise UserError(f"mix_padding must not be negative; got {self.mix_padding}")
        if not (0 <= self.lam_low <= self.lam_high <= 1 and self.lam_high > 0):
            raise UserError(
                f"lam is drawn between lam_low and lam_high, 0 <= lam_low <= lam_high <= 1, and lam_high must be above 0 for "
                f"anything to be mixed; got {self.lam_low:g} and {self.lam_high:g}"
            )
        self._refuse_contradictions()
        self._refuse_what_has_no_effect()

    @property
    def has_generator(self) -> bool:
        """Whether a generator plays against the classifier."""
        return self.mixed_image and self.amplitude_from == "generator"

    @property
    def trains_on_clean(self) -> bool:
        """Whether the loss holds predictions on x and the mixed image themselves, beside those on the attacked ones."""
        return self.training_loss == "trades" or (self.mixed_image and self.omega > 0)

    def _refuse_contradictions(self) -> None:
        starts_at_the_image = self.first_step == "clean" or (self.attack_start == "gaussian" and self.start_scale == 0)
        if self.attack_loss == "kl" and starts_at_the_image:
            raise UserError(
                "attack_loss kl has no gradient at the image itself, where first_step clean or a start_scale of 0 would start "
                "it; use first_step fresh and a start_scale above 0"
            )
        if self.first_step == "clean" and self.attack_start == "uniform":
            raise UserError(
                "first_step clean starts at the image itself, so there is no uniform start; leave one of them out"
            )
        if self.adversarial == "single" and self.mixed_image and self.mix_source == "original":
            raise UserError(
                "adversarial single mixes the attacked x, so the mixed image must be made of x too; add mix_source augmented"
            )
        if self.has_generator and not (self.trains_on_clean or self.attack_path_gradient):
            raise UserError(
                "with training_loss pgd-at and omega 0 the generator sees the loss through the attacked mixed image alone; "
                "keep attack_path_gradient"
            )

    def _refuse_what_has_no_effect(self) -> None:
        if not self.mixed_image:
            self._refuse_changed("without the mixed image", (*_OF_THE_MIXED_IMAGE, *(("omega",) if self.omega else ())))
        elif not self.has_generator:
            self._refuse_changed("where amplitudes come from another image", _OF_THE_GENERATOR)
        if self.mix_source == "augmented":
            self._refuse_changed("where the augmented image itself is mixed", ("mix_flip",))
        if self.attack_start == "uniform":
            self._refuse_changed("with a uniform start", ("start_scale",))
        if self.first_step == "clean":
            self._refuse_changed("with first_step clean, which starts at the image itself", ("start_scale",))

    def _refuse_changed(self, where: str, names: tuple[str, ...]) -> None:
        for own in fields(self):
            default = own.default if own.default_factory is MISSING else own.default_factory()
            if own.name in names and getattr(self, own.name) != default:
                raise UserError(f"{own.name} has no effect {where}; leave it out")


ENTRY = MethodEntry(
    implementation="dat.methods.dat.method:DATMethod",
    settings=DAT(),
    epochs=150,
    milestones=(100, 110),
    # the generator normalises over the batch, and another image is one of the batch
    smallest_batch=lambda settings: 2 if settings.mixed_image else 1,
    branches=lambda settings: ("base", "mix") if settings.mixed_image and settings.branches == "split" else ("base",),
    # at 224 pixels the published form's last layer would hold 154 million weights
    for_image_size=lambda settings, image_size: replace(settings, coarse_amplitude=32) if image_size > 64 else settings,
    with_published_crop={"mix_padding": 3},
    lengths={"tinyimagenet": (100, (75, 80))},
    # chosen on held-out training images: half of the label is too much smoothing for so few and so simple images
    defaults_by_recipe={"digits-resnet": {"settings.beta": 6.0, "settings.label_smoothing": 0.0}},
    without_branches=(
        "in the paper's ablation (Li et al., NeurIPS 2024; ResNet-18, CIFAR-10) one set of BatchNorm instead of two costs "
        "natural 84.17 -> 82.37, PGD-20 57.55 -> 53.07 and AutoAttack 51.36 -> 46.53 percent; nothing is published for "
        "networks without BatchNorm"
    ),
    summary="Dual Adversarial Training: amplitude-mixed twin images, generator against classifier",
)
