"""Every stage of the engine's step equals the literal float64 transcription of the method."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.pgd_at import PGDAT
from dat.methods.pgd_at.method import PGDATMethod
from dat.methods.trades import TRADES
from dat.methods.trades.method import TRADESMethod
from dat_engine.attack.attack_model import AttackModel
from dat_engine.model.branches import branch_layout
from dat_engine.model.precision import Precision
from tests.dat.oracle_setting import (
    CLASSES,
    OPTIMIZER,
    SHAPE,
    TASK,
    generator_of,
    model_of,
    reference_names,
    setting,
    training_step,
)
from tests.engine.step.whole_steps import on
from tests.oracle import method as oracle
from tests.oracle.networks import resnet_logits

TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}
ON_A_GPU = {"rtol": 5e-9, "atol": 5e-9}
RATE = 0.125
"""A float32: the fused optimizer on a GPU keeps its rate as one."""
WHOLE_STEPS = [
    *(
        pytest.param(
            update,
            branching,
            True,
            id=f"{update}, {branching}",
            marks=pytest.mark.gate(f"step: float64 on this device = float64 oracle, {update}, {branching}"),
        )
        for update, branching in itertools.product(("joint", "alternating"), ("folded", "grouped"))
    ),
    *(pytest.param(update, "folded", False, id=f"{update}, attack path off") for update in ("joint", "alternating")),
]


def assert_close(actual: Tensor, expected: Tensor, msg=None) -> None:
    tolerance = TOLERANCE if actual.device.type == "cpu" else ON_A_GPU
    torch.testing.assert_close(actual.detach().cpu(), expected, **tolerance, msg=msg)


def assert_states_close(model: torch.nn.Module, expected: dict[str, Tensor]) -> None:
    names = reference_names(model)
    own = model.state_dict()
    compared = 0
    for name, theirs in names.items():
        if theirs in expected and name in own and not name.endswith("num_batches_tracked"):
            assert_close(own[name], expected[theirs], msg=lambda m, n=name: f"{n}: {m}")
            compared += 1
    assert compared > 0


def dat_noise(values, scale: float = 0.001) -> dict[str, Tensor]:
    return {
        "latent": values.z,
        "lam": values.lam,
        "start": scale * torch.cat([values.start_noise, values.mix_start_noise]),
        "crop_offsets": values.mix_offsets,
        "flip": values.mix_flip,
    }


def oracle_dat(values, **changes):
    return oracle.dat_step(
        model_state=values.model_state,
        generator_state=values.generator_state,
        images=values.batch.images,
        targets=values.batch.targets,
        z=values.z,
        lam=values.lam,
        start_noise=values.start_noise,
        mix_start_noise=values.mix_start_noise,
        **{
            "originals": values.batch.originals,
            "mix_offsets": values.mix_offsets,
            "mix_flip": values.mix_flip,
            **changes,
        },
    )


def engine_dat(values, settings: DAT, *, rate: float = 0.1, device: torch.device | str = "cpu", **options):
    optimizer = replace(OPTIMIZER, learning_rate=rate)
    method = DATMethod(replace(settings, generator_optimizer=optimizer), TASK)
    method.generator = method.generate = generator_of(values).to(device)
    options["optimizer"] = optimizer
    return training_step(model_of(values).to(device), method, settings.generator_update, **options)


@pytest.mark.parametrize("branch", ["base", "mix"])
def test_logits_in_eval_mode_and_frozen(branch):
    values = setting()
    model = model_of(values).eval()
    expected, _ = resnet_logits(values.model_state, values.batch.images, branch, training=False)
    with branch_layout(model, (branch,)):
        assert_close(model(values.batch.images), expected)
    assert_close(AttackModel(model, ((branch,),), dtype=torch.float64).logits(values.batch.images, (branch,)), expected)
    if branch == "base":
        assert_close(model(values.batch.images), expected)


def test_grouped_train_mode_equals_sequential_passes():
    values = setting()
    model = model_of(values).train()
    layout = ("base", "base", "mix", "mix")
    groups = [values.batch.images, values.batch.originals, values.batch.images.flip(3), values.batch.originals.flip(2)]
    running, expected = None, []
    for branch, group in zip(layout, groups, strict=True):
        logits, running = resnet_logits(values.model_state, group, branch, training=True, running=running)
        expected.append(logits)
    with branch_layout(model, layout):
        logits = model(torch.cat(groups))
    assert_close(logits, torch.cat(expected))
    assert_states_close(model, running)


def test_generator_amplitude_in_fft_order():
    values = setting()
    logits = torch.randn(len(values.z), CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected = oracle.generator_amplitude(values.generator_state, values.z, logits, SHAPE)
    assert_close(generator_of(values)(values.z, logits), expected)


def test_views_and_adversarial_images_after_five_steps():
    values = setting()
    expected = oracle_dat(values)
    step = engine_dat(values, DAT())
    images, adversarial, mixed, mixed_adversarial = step.method.examples(
        step.attack_model, values.batch, dat_noise(values), step.progress
    ).groups
    assert_close(images, values.batch.images)
    assert_close(mixed, expected["mixed_view"])
    assert_close(adversarial, expected["adversarial"])
    assert_close(mixed_adversarial, expected["mixed_adversarial"])
    assert (adversarial - images).abs().max() > 0.9 * 8 / 255  # the attack has moved


@pytest.mark.parametrize(("update", "branching", "path"), WHOLE_STEPS)
def test_whole_step(update, branching, path, device):
    values = setting()
    expected = oracle_dat(values, generator_update=update, attack_path_gradient=path, learning_rate=RATE)
    settings = DAT(generator_update=update, attack_path_gradient=path)
    precision = Precision(name="fp64", channels_last=True)
    step = engine_dat(values, settings, rate=RATE, device=device, branching=branching, precision=precision)
    noise = {name: value.to(device) for name, value in dat_noise(values).items()}
    metrics = step(on(values.batch, device), noise)
    assert metrics["skipped"] == 0
    assert_close(metrics["loss"], expected["terms"]["loss"])
    assert_close(metrics["clean_loss"], expected["terms"]["at"])
    assert_close(metrics["mixed_loss"], expected["terms"]["mixed_at"])
    assert_close(metrics["js"], expected["terms"]["js"])
    accuracy = (expected["logits"]["adversarial"].argmax(1) == values.batch.targets).double().mean()
    assert metrics["accuracy"].double().cpu() == pytest.approx(float(accuracy), abs=1e-6)
    assert_states_close(step.model, expected["model_after"])
    assert_states_close(step.model, expected["running_after"])
    _assert_psi_close(step, expected)


@pytest.mark.parametrize("source", ["original", "augmented"])
def test_a_first_step_from_the_clean_forward(source):
    values = setting()
    changes = {"originals": values.batch.images, "mix_offsets": None, "mix_flip": None} if source == "augmented" else {}
    expected = oracle_dat(values, first_step="clean", generator_update="joint", **changes)
    noise = dat_noise(values)
    del noise["start"]
    if source == "augmented":
        del noise["crop_offsets"], noise["flip"]
    step = engine_dat(values, DAT(first_step="clean", mix_source=source))
    assert set(step.method.draw_noise(values.batch, step.generator)) == set(noise)
    metrics = step(values.batch, noise)
    assert_close(metrics["loss"], expected["terms"]["loss"])
    assert_states_close(step.model, expected["model_after"])
    _assert_psi_close(step, expected)


def _assert_psi_close(step, expected) -> None:
    generator = step.method.generator
    last = max(int(name.split(".")[1]) for name in expected["generator_gradients"])
    for name, gradient in expected["generator_gradients"].items():
        own = dict(generator.named_parameters())[name].grad
        if name.startswith(f"model.{last}."):
            shape = gradient.shape
            gradient = torch.fft.ifftshift(gradient.reshape(*SHAPE, *shape[1:]), dim=(1, 2)).reshape(shape)
        assert_close(own, gradient)
        assert gradient.abs().max() > 0
    after = expected["generator_after"]["model.0.weight"]
    assert_close(dict(generator.named_parameters())["model.0.weight"], after)


def test_augmented_mix_source_mixes_and_conditions_on_the_augmented_image():
    values = setting()
    assert not torch.equal(values.batch.images, values.batch.originals)
    # for the oracle the un-augmented image is then x itself; the engine's own originals must play no part
    expected = oracle_dat(values, originals=values.batch.images, mix_offsets=None, mix_flip=None)
    step = engine_dat(values, DAT(mix_source="augmented"))
    noise = dat_noise(values)
    del noise["crop_offsets"], noise["flip"]
    _, _, mixed, mixed_adversarial = step.method.examples(step.attack_model, values.batch, noise, step.progress).groups
    assert_close(mixed, expected["mixed_view"])
    assert_close(mixed_adversarial, expected["mixed_adversarial"])


def test_trades_step():
    values = setting()
    expected = oracle.trades_step(
        model_state=values.model_state,
        images=values.batch.images,
        targets=values.batch.targets,
        start_noise=values.start_noise,
        epsilon=8 / 255,
    )
    step = training_step(model_of(values, branches=("base",)), TRADESMethod(TRADES(), TASK))
    metrics = step(values.batch, {"start": 0.001 * values.start_noise})
    assert_close(metrics["loss"], expected["loss"])
    assert_states_close(step.model, expected["model_after"])
    assert_states_close(step.model, expected["running_after"])


def test_pgd_at_step():
    values = setting()
    start = 2 * torch.rand(values.batch.images.shape, dtype=torch.float64) - 1
    expected = oracle.pgd_at_step(
        model_state=values.model_state, images=values.batch.images, targets=values.batch.targets, start_noise=start
    )
    step = training_step(model_of(values, branches=("base",)), PGDATMethod(PGDAT(), TASK))
    metrics = step(values.batch, {"start": 8 / 255 * start})
    assert_close(metrics["loss"], expected["loss"])
    assert_states_close(step.model, expected["model_after"])
    assert_states_close(step.model, expected["running_after"])
