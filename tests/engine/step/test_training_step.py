"""The training step apart from its mathematics (tests/dat/test_step_against_oracle.py holds those)."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dat import models
from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.pgd_at import PGDAT
from dat.methods.pgd_at.method import PGDATMethod
from dat.methods.task import Task
from dat_engine.data import Batch
from dat_engine.model.precision import Precision
from dat_engine.step.guard import NonFiniteError
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep

SHAPE = (3, 16, 16)
TASK = Task(num_classes=5, image_shape=SHAPE, epsilon=8 / 255)


def batch(seed: int = 0, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, *SHAPE, generator=generator)
    return Batch(
        images=images,
        originals=images.flip(3),
        targets=torch.randint(0, 5, (size,), generator=generator),
        indices=torch.arange(size),
    )


def dat_step(*, update: str = "joint", precision: str = "fp32", channels_last: bool = False, **options) -> TrainingStep:
    torch.manual_seed(0)
    optimizer = SGDSettings(learning_rate=0.05)
    method = DATMethod(DAT(generator_update=update, generator_optimizer=optimizer), TASK)
    model = models.build("resnet18", num_classes=5, width=4)
    return TrainingStep(
        model,
        method,
        optimizer=optimizer,
        precision=Precision(name=precision, channels_last=channels_last),
        update=update,
        seed=7,
        **options,
    )


def everything(step: TrainingStep) -> dict[str, torch.Tensor]:
    tensors = dict(step.model.state_dict())
    tensors |= {f"psi.{name}": value for name, value in step.other_seats[0].player.network.state_dict().items()}
    for optimizer in (step.optimizer, step.other_seats[0].optimizer):
        for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
            tensors[f"{id(optimizer)}.{index}"] = optimizer.state[parameter]["momentum_buffer"]
    return {name: value.clone() for name, value in tensors.items() if "num_batches_tracked" not in name}


def test_same_seed_same_run_and_noise_differs_between_steps():
    one, other = dat_step(), dat_step()
    losses = [[float(step(batch())["loss"]) for _ in range(3)] for step in (one, other)]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
    first, second = (one.method.draw_noise(batch(), one.generator)["latent"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_state_dict_continues_bit_for_bit(update):
    uninterrupted, first = dat_step(update=update), dat_step(update=update)
    for index in range(2):
        uninterrupted(batch(index))
        first(batch(index))
    second = dat_step(update=update)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for index in range(2, 4):
        assert torch.equal(uninterrupted(batch(index))["loss"], second(batch(index))["loss"])
    ours, theirs = uninterrupted.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_a_nonfinite_step_changes_nothing_and_is_counted(update):
    step = dat_step(update=update)
    step(batch())
    before = everything(step)
    poisoned = replace(batch(1), images=batch(1).images.clone())
    poisoned.images[0, 0, 0, 0] = torch.nan
    metrics = step(poisoned)
    assert metrics["skipped"] == 1
    after = everything(step)
    for name in before:
        assert torch.equal(before[name], after[name]), name
    assert step.guard.total_skipped == 1
    assert step(batch(2))["skipped"] == 0
    assert any(not torch.equal(before[name], value) for name, value in everything(step).items())


def test_a_nonfinite_first_step_leaves_clean_momentum():
    step, twin = dat_step(), dat_step()
    noise = twin.method.draw_noise(batch(2), torch.Generator().manual_seed(3))
    step(batch(1), {**noise, "latent": torch.full_like(noise["latent"], torch.inf)})
    step(batch(2), noise)
    twin(batch(2), noise)
    for name, value in step.model.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(value, twin.model.state_dict()[name]), name


def test_many_nonfinite_steps_stop_the_run_and_name_the_cause():
    step = dat_step(max_nonfinite_steps=3)
    step(batch())
    poisoned = replace(batch(1), images=torch.full_like(batch(1).images, torch.nan))
    for _ in range(2):
        step(poisoned)
    step.guard.raise_if_diverged(step=3)
    step(poisoned)
    with pytest.raises(NonFiniteError, match=r"stopped at step 4: 3 steps in a row.*loss is not finite"):
        step.guard.raise_if_diverged(step=4)


def test_overflowing_gradients_alone_are_named_too():
    step = dat_step(max_nonfinite_steps=1)
    loss = sum((parameter * 0).sum() for parameter in step.model.parameters()) + 1.0
    for parameter in step.model.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    step.guard.begin_step()
    step.guard.check([loss], step.model.parameters())
    step.guard.settle()
    step.guard.end_step()
    with pytest.raises(NonFiniteError, match="its gradient is not"):
        step.guard.raise_if_diverged(step=1)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_follows_float32(precision, channels_last):
    reference, low = dat_step(), dat_step(precision=precision, channels_last=channels_last)
    noise = reference.method.draw_noise(batch(), torch.Generator().manual_seed(3))
    expected, metrics = reference(batch(), noise), low(batch(), noise)
    assert metrics["skipped"] == 0
    assert metrics["loss"].dtype == torch.float32
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=0.03)
    assert all(parameter.dtype == torch.float32 for parameter in low.model.parameters())
    moved = torch.cat(
        [(p - q).flatten() for p, q in zip(low.model.parameters(), reference.model.parameters(), strict=True)]
    )
    assert moved.norm() < 0.2 * torch.cat([p.grad.flatten() for p in reference.model.parameters()]).norm() * 0.05 * 10


def test_a_method_without_second_player():
    torch.manual_seed(0)
    model = models.build("resnet18", num_classes=5, width=4, branches=("base",))
    step = TrainingStep(model, PGDATMethod(PGDAT(steps=2), TASK), optimizer=SGDSettings(learning_rate=0.05))
    losses = [float(step(batch())["loss"]) for _ in range(6)]
    assert losses[-1] < losses[0]


def test_an_unknown_update_mode_is_named():
    with pytest.raises(ValueError, match="'joint' or 'alternating'; got 'both'"):
        dat_step(update="both")


class Untraceable(nn.Module):
    """Depends on its input's values, which fx cannot trace: its BatchNorm stays unfolded in the attack model."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)

    def forward(self, images):
        features = self.norm(self.convolution(images)).relu().mean(dim=(2, 3))
        return self.linear(features if images.sum() > 0 else -features)


def test_the_view_of_an_untraceable_model_follows_its_running_statistics():
    torch.manual_seed(0)
    model = Untraceable()
    with pytest.warns(UserWarning, match="cannot be traced"):
        step = TrainingStep(model, PGDATMethod(PGDAT(steps=1), TASK), optimizer=SGDSettings(learning_rate=0.05))
    for _ in range(3):
        step(batch())
    step.attack_model.refresh()
    expected = model.eval()(batch().images)
    torch.testing.assert_close(step.attack_model.logits(batch().images), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_of_other_strides_reach_their_own_weights(precision):
    """torch's fused kernels pair weights and gradients by their place in memory: the CPU's without a word."""
    usual, restrided = (dat_step(channels_last=True, precision=precision) for _ in range(2))
    for parameter in restrided.model.parameters():
        parameter.register_hook(lambda gradient: gradient.contiguous())
    for index in range(2):
        usual(batch(index))
        restrided(batch(index))
    for one, other in zip(usual.model.parameters(), restrided.model.parameters(), strict=True):
        assert other.grad.stride() == other.stride()
        assert torch.equal(one, other)
