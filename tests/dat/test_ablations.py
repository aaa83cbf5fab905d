"""Each ablation of DAT is what it says, costs what it needs, and refuses what makes no sense beside it."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dat import AmplitudeGenerator, models
from dat.methods import method_entry
from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.dat.other_images import draw_others
from dat.methods.pgd_at import PGDAT
from dat.methods.pgd_at.method import PGDATMethod
from dat.methods.task import Task
from dat.methods.trades import TRADES
from dat.methods.trades.method import TRADESMethod
from dat.models.resnet import ResNet
from dat_engine.data import Augmentation, Batch
from dat_engine.model.branches import convert_batchnorm
from dat_engine.model.precision import Precision
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from dat_kernels.pgd_step import philox
from tests.oracle.ablations import ablated_step
from tests.oracle.networks import random_generator_state, random_resnet_state

SIZE, CLASSES, WIDTH, SHAPE = 6, 5, 3, (3, 8, 8)
BLOCKS = (1, 1)
TASK = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=8 / 255, augmentation=Augmentation(padding=2, flip=True))
OPTIMIZER = SGDSettings(learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
ATTACK = {"steps": 3, "step_size": 4 / 255}  # enough to reach the box
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}
AUGMENTED = {"mix_source": "augmented"}
PGD_AT = {"training_loss": "pgd-at", "attack_loss": "cross-entropy", "attack_start": "uniform", "label_smoothing": 0.0}

ABLATIONS = {
    "none": {},
    "no mixed image": {"mixed_image": False},
    "no JS": {"omega": 0.0},
    "lam 1": {"lam_low": 1.0},
    "lam up to 0.3": {"lam_high": 0.3},
    "one BatchNorm": {"branches": "shared"},
    "other image": {"amplitude_from": "other-image"},
    "attack by cross entropy": {"attack_loss": "cross-entropy"},
    "attack by KL": {"attack_loss": "kl"},
    "single": {"adversarial": "single", **AUGMENTED},
    "single, no gradient through it": {"adversarial": "single", "attack_path_gradient": False, **AUGMENTED},
    "TRADES with the generator": {"attack_loss": "kl", "beta": 6.0, "label_smoothing": 0.0, "omega": 0.0},
    "PGD-AT with the generator": {**PGD_AT, "omega": 0.0},
    "PGD-AT with the generator and JS": PGD_AT,
    "PGD-AT, single, one BatchNorm": {
        **PGD_AT,
        "omega": 0.0,
        "adversarial": "single",
        "branches": "shared",
        **AUGMENTED,
    },
    "other image, cross entropy, one BatchNorm": {
        "amplitude_from": "other-image",
        "attack_loss": "cross-entropy",
        "branches": "shared",
        **AUGMENTED,
    },
    "cross entropy from the clean forward": {"attack_loss": "cross-entropy", "first_step": "clean", **AUGMENTED},
    "other image from the clean forward": {"amplitude_from": "other-image", "first_step": "clean"},
    "single from the clean forward": {"adversarial": "single", "first_step": "clean", **AUGMENTED},
    "no mixed image from the clean forward": {"mixed_image": False, "first_step": "clean"},
}
BY_NAME = pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)


@pytest.fixture(scope="module")
def states():
    return (
        random_resnet_state(WIDTH, CLASSES, BLOCKS, seed=1),
        random_generator_state(CLASSES, SHAPE, seed=2),
    )


def a_batch(dtype=torch.float64, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def images():
        coarse = torch.rand(SIZE, 3, 4, 4, generator=generator, dtype=dtype)
        return 0.8 * nn.functional.interpolate(coarse, SHAPE[1:]) + 0.2 * torch.rand(
            SIZE, *SHAPE, generator=generator, dtype=dtype
        )

    return Batch(
        images=images(),
        originals=images(),
        targets=torch.randint(0, CLASSES, (SIZE,), generator=generator),
        indices=torch.arange(SIZE),
    )


def classifier(branches: tuple[str, ...]) -> nn.Module:
    return convert_batchnorm(ResNet(BLOCKS, num_classes=CLASSES, width=WIDTH), branches)


def step_of(changes: dict, states=None, precision: str = "fp64", **options) -> TrainingStep:
    """With the weights of `states`, or freshly made."""
    torch.manual_seed(3)
    settings = DAT(**ATTACK, generator_optimizer=OPTIMIZER, **changes)
    method = DATMethod(settings, TASK)
    model = classifier(method_entry("dat").branches(settings))
    if states is not None:
        models.load_reference_state_dict(model, states[0])
        if settings.has_generator:
            method.generator.load_reference_state_dict(states[1])
    if precision == "fp64":
        model.double()
        if settings.has_generator:
            method.generator.double()
    return TrainingStep(model, method, optimizer=OPTIMIZER, precision=Precision(name=precision), seed=5, **options)


def start_noise(settings: DAT, seed: torch.Tensor) -> torch.Tensor:
    """What the engine adds to x and the mixed image, [2, B, C, H, W], by a seed; x alone has its first half."""
    shape = (2, SIZE, *SHAPE)
    if settings.attack_start == "uniform":
        return TASK.epsilon * philox.uniform(math.prod(shape), seed, 0, seed.device).view(shape)
    return settings.start_scale * philox.gaussian(math.prod(shape), seed, 0, seed.device).view(shape)


def of_oracle(settings: DAT, batch: Batch, noise: dict, states) -> dict:
    """The transcription under these settings, given the numbers that the engine drew."""
    start, mixed_start = start_noise(settings, noise["start"]) if "start" in noise else torch.zeros(2, SIZE, *SHAPE)
    return ablated_step(
        model_state=states[0],
        generator_state=states[1],
        images=batch.images,
        originals=batch.originals if settings.mix_source == "original" else batch.images,
        targets=batch.targets,
        z=noise.get("latent"),
        lam=noise.get("lam"),
        other=noise.get("other"),
        start_noise=start,
        mix_start_noise=mixed_start,
        mix_offsets=noise.get("crop_offsets"),
        mix_flip=noise.get("flip"),
        **{
            name: getattr(settings, name)
            for name in (
                *("steps", "step_size", "beta", "omega", "label_smoothing", "training_loss", "attack_loss"),
                *("mixed_image", "adversarial", "branches", "attack_path_gradient"),
            )
        },
    )


def assert_like(network: nn.Module, states, name: str = "") -> None:
    """Every tensor of `network` that the authors' names in `states` lead to."""
    twin = AmplitudeGenerator(CLASSES, SHAPE) if isinstance(network, AmplitudeGenerator) else None
    if twin is not None:
        twin.double().load_reference_state_dict({**twin.state_dict(), **states})
    else:
        twin = classifier(tuple(network.bn1)).double()
        models.load_reference_state_dict(twin, states)
    expected = dict(twin.named_parameters()) if isinstance(network, AmplitudeGenerator) else twin.state_dict()
    own = network.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(own[key], value.detach(), **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")


@BY_NAME
def test_a_step_is_the_transcribed_one(changes, states):
    step, batch = step_of(changes, states), a_batch()
    noise = step.method.draw_noise(batch, torch.Generator().manual_seed(9))
    expected = of_oracle(step.method.settings, batch, noise, states)
    groups = step.method.examples(step.attack_model, batch, noise, step.progress).groups
    assert step.method.groups == tuple(expected["images"])
    for own, (name, theirs) in zip(groups, expected["images"].items(), strict=True):
        torch.testing.assert_close(own.detach(), theirs, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
    metrics = step(batch, noise)
    assert metrics["skipped"] == 0
    names = {"loss": "loss", "clean_loss": "at", "mixed_loss": "mixed_at", "js": "js"}
    for own_name, their_name in names.items():
        if own_name in metrics:
            torch.testing.assert_close(metrics[own_name], expected["terms"][their_name], **TOLERANCE)
    assert_like(step.model, {**states[0], **expected["model_after"], **expected["running_after"]})
    assert bool(step.other_seats) == step.method.settings.has_generator == bool(expected["generator_gradients"])
    if step.other_seats:
        assert max(float(gradient.abs().max()) for gradient in expected["generator_gradients"].values()) > 1e-9
        assert_like(step.method.generator, expected["generator_after"])


@pytest.mark.parametrize(
    ("changes", "create"),
    [
        (
            {**PGD_AT, "mixed_image": False},
            lambda: PGDATMethod(PGDAT(**ATTACK), TASK),
        ),
        (
            {"attack_loss": "kl", "beta": 6.0, "label_smoothing": 0.0, "mixed_image": False},
            lambda: TRADESMethod(TRADES(**ATTACK), TASK),
        ),
    ],
    ids=["pgd-at", "trades"],
)
def test_without_the_mixed_image_the_other_methods_remain_bit_for_bit(changes, create):
    own = step_of(changes, precision="fp32")
    torch.manual_seed(3)
    other = TrainingStep(classifier(("base",)), create(), optimizer=OPTIMIZER, seed=5)
    other.model.load_state_dict(own.model.state_dict())
    for seed in range(3):
        batch = a_batch(torch.float32, seed)
        assert own(batch)["loss"] == other(batch)["loss"]
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in own.model.state_dict().items())


@pytest.mark.parametrize("name", ["no mixed image", "other image", "single", "PGD-AT with the generator"])
def test_graphed_and_resumed_steps_are_the_eager_ones_bit_for_bit(name):
    batches = [a_batch(torch.float32, seed) for seed in range(4)]
    eager, graphed, resumed = (step_of(ABLATIONS[name], precision="fp32") for _ in range(3))
    losses = [float(eager(batch)["loss"]) for batch in batches]
    execute = GraphedStep(graphed)
    assert [float(execute(batch)["loss"]) for batch in batches] == losses
    first = step_of(ABLATIONS[name], precision="fp32")
    for batch in batches[:2]:
        first(batch)
    resumed.load_state_dict(first.snapshot())
    assert [float(resumed(batch)["loss"]) for batch in batches[2:]] == losses[2:]
    expected = eager.state_dict()
    for step in (graphed, resumed):
        own = step.state_dict()
        assert all(torch.equal(value, own["model"][key]) for key, value in expected["model"].items())
        assert torch.equal(expected["generator"], own["generator"])
        assert set(own["players"]) == ({"generator"} if step.other_seats else set())


@pytest.mark.slow
def test_a_compiled_step_is_the_eager_one(monkeypatch):
    torch._dynamo.reset()
    # what Inductor is given, run operation by operation: its own rounding is another test's
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    changes = {**PGD_AT, "amplitude_from": "other-image"}
    eager, compiled, batch = step_of(changes), step_of(changes, compiled=True), a_batch()
    torch.testing.assert_close(compiled(batch)["loss"], eager(batch)["loss"], rtol=1e-9, atol=1e-11)
    for key, value in eager.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[key], value, rtol=1e-8, atol=1e-10, msg=key)


@pytest.mark.parametrize(
    ("name", "groups", "asked", "drawn"),
    [
        (
            "none",
            4,
            {("base",), ("mix",), ("base", "mix")},
            {"latent", "lam", "start", "crop_offsets", "flip"},
        ),
        ("no mixed image", 2, {("base",)}, {"start"}),
        ("one BatchNorm", 4, {("base",)}, {"latent", "lam", "start", "crop_offsets", "flip"}),
        ("other image", 4, {("base", "mix")}, {"other", "lam", "start", "crop_offsets", "flip"}),
        ("single", 4, {("base",)}, {"latent", "lam", "start"}),
        ("attack by cross entropy", 4, {("base",), ("base", "mix")}, None),
        ("PGD-AT with the generator", 2, {("base",), ("base", "mix")}, None),
    ],
)
def test_nothing_is_made_that_a_setting_leaves_out(name, groups, asked, drawn):
    step = step_of(ABLATIONS[name], precision="fp32")
    assert len(step.method.layout) == groups and set(step.method.attack_layouts) == asked
    assert drawn is None or set(step.method.draw_noise(a_batch(), torch.Generator())) == drawn
    branches = method_entry("dat").branches(step.method.settings)
    assert set(step.method.layout) == set(branches) | ({"base"} if name == "single" else set())


def test_lam_is_drawn_between_its_bounds():
    images = torch.rand(500, 1, 4, 4)
    batch = Batch(images=images, originals=images, targets=torch.zeros(500).long(), indices=torch.arange(500))
    task = replace(TASK, image_shape=(1, 4, 4))

    def drawn(low: float, high: float) -> torch.Tensor:
        method = DATMethod(DAT(lam_low=low, lam_high=high), task)
        return method.draw_noise(batch, torch.Generator().manual_seed(1))["lam"]

    assert torch.equal(drawn(0.0, 0.3), drawn(0.0, 1.0) * 0.3)
    assert drawn(0.0, 1.0).max() > 0.9 and drawn(0.5, 1.0).min() >= 0.5
    assert bool((drawn(1.0, 1.0) == 1).all())


def test_another_image_is_never_the_image_itself_and_each_is_as_likely():
    generator, size = torch.Generator().manual_seed(0), 5
    draws = torch.stack([draw_others(size, generator, torch.device("cpu")) for _ in range(2000)])
    assert draws.dtype == torch.int64 and bool((draws.sort(dim=1).values == torch.arange(size)).all())
    assert not bool((draws == torch.arange(size)).any())
    for image in range(size):
        counts = draws[:, image].bincount(minlength=size)
        assert all(abs(int(counts[other]) - 500) < 100 for other in range(size) if other != image)
    assert draw_others(2, generator, torch.device("cpu")).tolist() == [1, 0]
