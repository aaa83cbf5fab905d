"""AdamW as the step uses it: torch's numbers, skipped steps, clipping, a state that loads in place."""

import copy
import math

import pytest
import torch
from torch import nn

from dat import models
from dat_engine.step.adamw import decaying_weights
from dat_engine.step.guard import Guard
from dat_engine.step.optimizer_settings import AdamWSettings, SGDSettings, optimizer_settings
from dat_engine.step.optimizers import build_optimizer, load_optimizer_state, set_learning_rate, step_unless

GOOD, BAD = torch.tensor(0.0), torch.tensor(1.0)


def network(seed: int = 0, device: torch.device | str = "cpu") -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 3)).to(device)


def give_gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def everything(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Weights, both moments and the step counters, copied."""
    moments = [value for parameter in module.parameters() for value in optimizer.state[parameter].values()]
    return [tensor.detach().clone() for tensor in (*module.parameters(), *moments)]


@pytest.mark.parametrize("maximize", [False, True])
def test_its_steps_are_those_of_the_published_rule(maximize, device):
    settings = AdamWSettings(learning_rate=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    module = network(device=device).double()
    optimizer = build_optimizer(module, settings, maximize=maximize)
    tolerance = 1e-12 if device.type == "cpu" else 1e-7  # on a GPU the rate is a float32
    expected = [parameter.detach().clone() for parameter in module.parameters()]
    first = [torch.zeros_like(value) for value in expected]
    second = [torch.zeros_like(value) for value in expected]
    for step in (1, 2, 3):
        give_gradients(module, step)
        rate = 0.01 / step
        set_learning_rate(optimizer, rate)
        for index, parameter in enumerate(module.parameters()):
            gradient = -parameter.grad if maximize else parameter.grad
            decay = 0.1 if parameter.ndim == 2 else 0.0
            first[index] = 0.8 * first[index] + 0.2 * gradient
            second[index] = 0.95 * second[index] + 0.05 * gradient**2
            direction = first[index] / (1 - 0.8**step) / ((second[index] / (1 - 0.95**step)).sqrt() + 1e-6)
            expected[index] = expected[index] * (1 - rate * decay) - rate * direction
        step_unless(optimizer, GOOD.to(device))
        for value, parameter in zip(expected, module.parameters(), strict=True):
            torch.testing.assert_close(parameter.detach(), value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_skipped_step_changes_no_weight_moment_or_counter(steps_before, device):
    module, twin = network(device=device), network(device=device)
    good, bad = GOOD.to(device), BAD.to(device)
    optimizers = [build_optimizer(each, AdamWSettings(clip_norm=0.5)) for each in (module, twin)]
    for step in range(steps_before):
        for each, optimizer in zip((module, twin), optimizers, strict=True):
            give_gradients(each, step)
            step_unless(optimizer, good)
    before = everything(module, optimizers[0])
    give_gradients(module, 7)
    module[0].weight.grad[0, 0] = math.nan
    step_unless(optimizers[0], bad)
    assert all(map(torch.equal, everything(module, optimizers[0]), before))
    for each, optimizer in zip((module, twin), optimizers, strict=True):  # and the next good step is what it would be
        give_gradients(each, 8)
        step_unless(optimizer, good)
    after = everything(module, optimizers[0])
    assert all(map(torch.equal, after, everything(twin, optimizers[1])))
    assert not any(torch.equal(one, other) for one, other in zip(after, before, strict=True))


def test_a_saved_state_goes_on_bit_for_bit_in_the_same_tensors(device):
    module, twin = network(device=device), network(seed=1, device=device)
    good = GOOD.to(device)
    optimizer, other = (build_optimizer(each, AdamWSettings(clip_norm=1.0)) for each in (module, twin))
    for step in range(3):
        give_gradients(module, step)
        step_unless(optimizer, good)
    set_learning_rate(optimizer, 0.02)
    places = [value.data_ptr() for parameter in twin.parameters() for value in other.state[parameter].values()]
    twin.load_state_dict(module.state_dict())
    load_optimizer_state(other, copy.deepcopy(optimizer.state_dict()))
    for each, its in ((module, optimizer), (twin, other)):
        give_gradients(each, 5)
        step_unless(its, good)
    assert all(map(torch.equal, everything(module, optimizer), everything(twin, other)))
    assert [v.data_ptr() for p in twin.parameters() for v in other.state[p].values()] == places


BLOCK = "encoder.layers.encoder_layer_0"


@pytest.mark.parametrize(
    ("create", "decaying", "apart"),
    [
        (
            lambda: models.build("vit_lite_patch4", num_classes=3, width=16),
            [
                "conv_proj.weight",
                f"{BLOCK}.self_attention.in_proj_weight",
                f"{BLOCK}.mlp.0.weight",
                "heads.head.weight",
            ],
            ["class_token", "encoder.pos_embedding", f"{BLOCK}.ln_1.weight", f"{BLOCK}.self_attention.in_proj_bias"],
        ),
        (
            lambda: models.build("convnext_atto_patch2", num_classes=3, width=4),
            [
                "features.0.0.weight",
                "features.1.0.block.0.weight",
                "features.1.0.block.3.weight",
                "classifier.2.weight",
            ],
            ["features.1.0.layer_scale", "features.0.1.weight", "features.1.0.block.2.weight", "classifier.2.bias"],
        ),
        (
            lambda: models.build("resnet8", num_classes=3, width=4),
            ["conv1.weight", "linear.weight"],
            ["bn1.base.weight", "bn1.mix.weight", "linear.bias"],
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 6, 6]), nn.Conv2d(4, 1, 1)),
            ["0.weight", "2.weight"],
            ["1.weight", "1.bias"],
        ),
    ],
    ids=["vit", "convnext", "resnet", "layer norm of planes"],
)
def test_only_weights_that_multiply_decay(create, decaying, apart):
    module = create()
    chosen = {id(parameter) for parameter in decaying_weights(module)}
    named = dict(module.named_parameters())
    assert [name for name in decaying if id(named[name]) not in chosen] == []
    assert [name for name in apart if id(named[name]) in chosen] == []
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.MultiheadAttention)]
    assert len(chosen) == len(layers)  # every layer that multiplies, and nothing beside them


def test_decay_of_everything_is_a_choice():
    everywhere = build_optimizer(network(), AdamWSettings(decay="all"))
    assert [group["weight_decay"] for group in everywhere.param_groups] == [0.05]
    chosen = build_optimizer(network(), AdamWSettings())
    assert [(len(group["params"]), group["weight_decay"]) for group in chosen.param_groups] == [(2, 0.05), (4, 0.0)]
    only_norms = build_optimizer(nn.LayerNorm(4), AdamWSettings())
    assert [group["weight_decay"] for group in only_norms.param_groups] == [0.0]


@pytest.mark.parametrize("settings", [AdamWSettings(clip_norm=0.5), SGDSettings(clip_norm=0.5)], ids=["adamw", "sgd"])
def test_the_whole_gradient_is_clipped_once(settings, device):
    module, good = network(device=device), GOOD.to(device)
    optimizer = build_optimizer(module, settings)
    give_gradients(module, 0)
    whole = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    step_unless(optimizer, good)
    clipped = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    torch.testing.assert_close(clipped, whole * (0.5 / whole.norm()), rtol=1e-5, atol=0)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    step_unless(optimizer, good)
    assert all(torch.equal(parameter.grad, torch.full_like(parameter, 1e-3)) for parameter in module.parameters())


def test_gradients_are_unscaled_before_they_are_clipped(device):
    """fp16 multiplies the loss by 65,536, and the norm is that of the gradient itself."""
    plain, scaled = network(device=device), network(device=device)
    for module, scales_loss in ((plain, False), (scaled, True)):
        optimizer = build_optimizer(module, SGDSettings(learning_rate=0.1, clip_norm=0.1))
        guard = Guard(module, scales_loss=scales_loss)
        loss = module(torch.ones(2, 5, device=device)).square().sum()
        guard.begin_step()
        guard.scaled(loss).backward()
        guard.check([loss], module.parameters())
        guard.step(optimizer)
        guard.settle()
    assert float(guard.skipped) == 0
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite; got 0"),
        ({"betas": (0.9, 1.0)}, r"betas are two numbers in \[0, 1\); got 0.9, 1"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must be finite and not negative; got -1"),
        ({"decay": "some"}, "decay must be weights or all; got 'some'"),
        ({"clip_norm": 0.0}, "clip_norm must be positive and finite, or left out; got 0"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        AdamWSettings(**values)


def test_kinds_are_named():
    assert optimizer_settings("adamw") is AdamWSettings and optimizer_settings("sgd") is SGDSettings
    with pytest.raises(ValueError, match="no optimizer is called 'lion'; choose one of sgd, adamw"):
        optimizer_settings("lion")
    with pytest.raises(ValueError, match="clip_norm must be positive"):
        SGDSettings(clip_norm=math.inf)
