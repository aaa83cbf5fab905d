"""Networks without BatchNorm, and with more than BatchNorm: the whole step, its attack model, resumption, compilation."""

import copy

import pytest
import torch
from torch import nn

from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat.models.convnext import convnext
from dat.models.vision_transformer import vision_transformer
from dat_engine.attack.attack_model import AttackModel
from dat_engine.data import Batch
from dat_engine.model.branches import branch_layout, convert_batchnorm, has_batchnorm
from dat_engine.step.method import UpdateMode
from dat_engine.step.optimizer_settings import AdamWSettings, OptimizerSettings, SGDSettings
from dat_engine.step.training_step import TrainingStep

SHAPE = (3, 16, 16)
TASK = Task(num_classes=5, image_shape=SHAPE, epsilon=8 / 255)
SIZE = {"num_classes": 5, "in_channels": 3, "image_size": SHAPE[1:]}
LAYOUTS = (("base",), ("mix",), ("base", "mix"))


def group_norm_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.LayerNorm(128),
        nn.Linear(128, 5),
    )


def hybrid_net() -> nn.Module:
    """A convolutional stem with BatchNorm under layers that normalise each image for itself."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Flatten(),
        nn.LayerNorm(128),
        nn.Linear(128, 5),
    )
    return convert_batchnorm(model)


NETWORKS = {
    "vit": lambda: vision_transformer(patch_size=4, layers=1, mlp_ratio=2, width=16, **SIZE),
    "convnext": lambda: convnext((1, 1, 1, 1), patch_size=2, width=4, **SIZE),
    "group norm": group_norm_net,
    "hybrid": hybrid_net,
}

every_network = pytest.mark.parametrize("name", NETWORKS)


def randomised(model: nn.Module) -> nn.Module:
    """Away from zero heads and layer scales, and from statistics of 0 and 1, under which much would go unnoticed."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype) * 0.2
                tensor.copy_(noise.abs() + 0.5 if "running_var" in name else tensor + noise)
    return model


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(NETWORKS[name]())


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, *SHAPE, generator=generator)
    return Batch(
        images=images,
        originals=images.flip(3),
        targets=torch.randint(0, 5, (4,), generator=generator),
        indices=torch.arange(4),
    )


def dat_step(
    name: str, generator_optimizer: OptimizerSettings | None = None, update: UpdateMode = "joint", **options
) -> TrainingStep:
    model = network(name)
    torch.manual_seed(1)
    generator_optimizer = generator_optimizer or SGDSettings()
    method = DATMethod(DAT(steps=2, generator_optimizer=generator_optimizer, generator_update=update), TASK)
    optimizer = AdamWSettings(learning_rate=1e-3, clip_norm=1.0)
    return TrainingStep(model, method, optimizer=optimizer, seed=7, **options)


def everything(step: TrainingStep) -> dict[str, torch.Tensor]:
    tensors = {
        **step.model.state_dict(),
        **{f"psi.{k}": v for k, v in step.other_seats[0].player.network.state_dict().items()},
    }
    for player, optimizer in (("theta", step.optimizer), ("psi", step.other_seats[0].optimizer)):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            state = optimizer.state[parameter]
            tensors |= {f"{key} of {player} {index}": value for key, value in state.items()}
    return {key: value.clone() for key, value in tensors.items() if "num_batches_tracked" not in key}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@every_network
def test_only_batchnorm_is_branched(name):
    assert has_batchnorm(network(name)) == (name == "hybrid")


@every_network
@pytest.mark.parametrize("branching", ["folded", "grouped"])
def test_the_view_equals_the_model_in_eval_mode_on_every_branch(name, branching):
    model = network(name).double().eval()
    attack_model = AttackModel(model, LAYOUTS, dtype=torch.float64, branching=branching)
    randomised(model)  # so that the view has something to follow
    attack_model.refresh()
    inputs = [batch(seed).images.double().requires_grad_() for seed in (0, 1)]
    for layout in LAYOUTS:
        used = inputs[: len(layout)]
        expected = []
        for branch, images in zip(layout, used, strict=True):
            with branch_layout(model, (branch,)):
                expected.append(model(images))
        logits = attack_model.logits(torch.cat(used), layout)
        torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-9, atol=1e-11)
        gradients = torch.autograd.grad(logits.square().sum(), used)
        wanted = torch.autograd.grad(torch.cat(expected).square().sum(), used)
        torch.testing.assert_close(gradients, wanted, rtol=1e-8, atol=1e-10)


def test_one_copy_of_the_weights_serves_all_branches():
    model = network("vit")
    attack_model = AttackModel(model, LAYOUTS)
    copies = {tensor.data_ptr() for forward in attack_model._groups.values() for tensor in forward.parameters()}
    assert len(copies) == len(list(model.parameters()))
    assert not any(tensor.requires_grad for forward in attack_model._groups.values() for tensor in forward.parameters())


@every_network
@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_it_trains_and_going_on_equals_never_having_stopped(name, update):
    uninterrupted, first = dat_step(name, update=update), dat_step(name, update=update)
    before = everything(first)
    for index in range(2):
        uninterrupted(batch(index))
        metrics = first(batch(index))
        assert metrics["loss"].isfinite() and metrics["skipped"] == 0
    moved = differing(everything(first), before)
    assert {key for key, _ in first.model.named_parameters()} <= set(moved)
    second = dat_step(name, update=update)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for index in range(2, 4):
        assert torch.equal(uninterrupted(batch(index))["loss"], second(batch(index))["loss"])
    assert differing(everything(uninterrupted), everything(second)) == []


@every_network
def test_a_step_that_is_not_finite_changes_nothing(name):
    step = dat_step(name)
    step(batch())
    before = everything(step)
    poisoned = batch(1)
    poisoned.images[0, 0, 0, 0] = torch.nan
    assert step(poisoned)["skipped"] == 1
    assert differing(everything(step), before) == []


@pytest.mark.timeout(900)  # Inductor builds some ten graphs with the C++ compiler, minutes on a busy machine
@every_network
def test_compiled_follows_eager(name):
    torch._dynamo.reset()
    compiled, eager = dat_step(name, compiled=True), dat_step(name)
    first, second = ([float(step(batch(index))["loss"]) for step in (compiled, eager)] for index in range(2))
    assert first[0] == pytest.approx(first[1], rel=2e-3)
    assert second[0] == pytest.approx(second[1], rel=3e-2)  # a gradient's last bit flips a sign of the attack's step


def test_the_generator_keeps_sgd_unless_asked():
    step = dat_step("group norm")
    assert isinstance(step.optimizer, torch.optim.AdamW) and isinstance(step.other_seats[0].optimizer, torch.optim.SGD)
    asked = dat_step("group norm", generator_optimizer=AdamWSettings()).other_seats[0].optimizer
    assert isinstance(asked, torch.optim.AdamW)
    assert all(group["maximize"] for group in asked.param_groups)


def test_batchnorm_that_was_not_converted_is_still_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="has the branches base, not mix"), branch_layout(model, ("base", "mix")):
        pass
