"""A step counts as a whole or not at all: whichever of its numbers is bad, nothing that training depends on has changed."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat_engine.model.branches import batchnorm_layers
from dat_engine.model.precision import Precision
from dat_engine.step.optimizer_settings import AdamWSettings, SGDSettings
from dat_engine.step.training_step import TrainingStep
from tests.engine.step.prototypes import CLASSES, SHAPE, batch, classifier

TASK = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=0.1)
OPTIMIZERS = {"sgd": SGDSettings(learning_rate=0.05), "adamw": AdamWSettings(learning_rate=0.01)}
FAULTS = ("loss", "gradient of theta", "gradient of psi", "generated amplitude", "input")


def dat_step(update: str, optimizer: str, precision: str = "fp32", device: torch.device | str = "cpu") -> TrainingStep:
    model = classifier("base", "mix").to(device)
    for _, _, layer in batchnorm_layers(model):
        layer.momentum = None  # its statistics depend on the count of batches, which a skipped step must not raise
    torch.manual_seed(1)
    method = DATMethod(DAT(steps=1, generator_update=update, generator_optimizer=OPTIMIZERS[optimizer]), TASK)
    return TrainingStep(model, method, optimizer=OPTIMIZERS[optimizer], precision=Precision(name=precision), seed=2)


def flat(state: object, path: str = "") -> dict[str, Tensor]:
    """Every tensor of a nested state by its path, copied."""
    if isinstance(state, Tensor):
        return {path: state.detach().clone()}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {name: value for key, part in items for name, value in flat(part, f"{path}/{key}").items()}


def trained(step: TrainingStep) -> dict[str, Tensor]:
    """All that a checkpoint holds, but for the random state (the noise is drawn anew) and the counters of skipped steps."""
    state = flat(step.state_dict())
    return {
        name: value
        for name, value in state.items()
        if name not in ("/generator", "/guard/total", "/guard/consecutive", "/steps_done")
    }


def break_once(step: TrainingStep, fault: str, given, noise):
    """Put NaN where `fault` says, for one call; returns what to hand to the step, and how to mend it."""
    theta, psi = step.own_seats[0].parameters[0], step.other_seats[0].parameters[0]
    if fault == "input":
        images = given.images.clone()
        images[0, 0, 0, 0] = torch.nan
        return replace(given, images=images), noise, lambda: None
    if fault == "generated amplitude":
        whole = step.method.generate

        class Broken(nn.Module):
            def forward(self, latent: Tensor, logits: Tensor) -> Tensor:
                amplitude = whole(latent, logits)
                return amplitude + torch.full_like(amplitude, torch.nan)

        step.method.generate = Broken()
        return given, noise, lambda: setattr(step.method, "generate", whole)
    if fault == "loss":
        losses = step.method.losses
        step.method.losses = lambda joint: {**losses(joint), "loss": losses(joint)["loss"] * torch.nan}
        return given, noise, lambda: delattr(step.method, "losses")
    hook = (theta if fault == "gradient of theta" else psi).register_hook(lambda gradient: gradient * torch.inf)
    return given, noise, hook.remove


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("update", ["joint", "alternating"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_step_changes_nothing_bit_for_bit(fault, update, optimizer):
    step, twin = dat_step(update, optimizer), dat_step(update, optimizer)
    noise = [twin.method.draw_noise(batch(seed), torch.Generator().manual_seed(seed)) for seed in range(3)]
    step(batch(0), noise[0])
    before = trained(step)
    assert any(name.endswith("num_batches_tracked") for name in before)
    assert (optimizer == "adamw") == any(name.endswith("/step") for name in before)
    given, drawn, mend = break_once(step, fault, batch(1), noise[1])
    metrics = step(given, drawn)
    mend()
    assert metrics["skipped"] == 1
    assert step.guard.total_skipped == 1
    after = trained(step)
    assert before.keys() == after.keys()
    assert not [name for name in before if not torch.equal(before[name], after[name])]
    # and the step after it is that of a run which never met the fault
    assert step(batch(2), noise[2])["skipped"] == 0
    twin(batch(0), noise[0])
    twin(batch(2), noise[2])
    expected = trained(twin)
    assert not [name for name, value in trained(step).items() if not torch.equal(value, expected[name])]
    assert any(not torch.equal(before[name], expected[name]) for name in before if name.startswith("/players"))


@pytest.mark.parametrize("fault", ["gradient of theta", "gradient of psi", "loss"])
@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_one_bad_step_halves_the_scale_once(update, fault, device):
    """Also where both passes of an alternating step were bad."""
    step = dat_step(update, "sgd", precision="fp16", device=device)
    step.guard._scale.fill_(64.0)  # at which these gradients do not overflow
    assert step(batch(0, device=device))["skipped"] == 0
    state = step.guard.state_dict()
    assert (float(state["scale"]), int(state["growth"])) == (64.0, 1)  # one step, however many passes
    before = copy.deepcopy(trained(step))
    given, noise, mend = break_once(step, fault, batch(1, device=device), None)
    assert step(given, noise)["skipped"] == 1
    mend()
    state = step.guard.state_dict()
    assert (float(state["scale"]), int(state["growth"])) == (32.0, 0)
    after = trained(step)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert set(changed) == {"/guard/scale", "/guard/growth"}
