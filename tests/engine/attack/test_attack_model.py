import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dat import models
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.folding import GroupAffine
from dat_engine.model.branches import branch_layout, convert_batchnorm


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * 0.3
            tensor.copy_(noise.abs() + 0.5 if "running_var" in name else tensor + noise * 0.3)
    return model


LAYOUTS = (("base",), ("mix",), ("base", "mix"))


def images(size: int = 16) -> torch.Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def mobilenet() -> nn.Module:
    torchvision = pytest.importorskip("torchvision", reason="needs torchvision, which is not installed")
    return convert_batchnorm(torchvision.models.mobilenet_v2(num_classes=7, width_mult=0.25))


@pytest.mark.parametrize(
    "create",
    [
        lambda: models.build("resnet18", num_classes=7, width=4),
        lambda: models.build("wrn28-10", num_classes=7, width=4),
        mobilenet,
    ],
    ids=["resnet18", "wide resnet", "torchvision mobilenet"],
)
@pytest.mark.parametrize("branch", ["base", "mix"])
def test_view_equals_the_model_in_eval_mode(create, branch, device):
    model = randomised(create().double()).to(device).eval()
    attack_model = AttackModel(model, LAYOUTS, dtype=torch.float64)
    with branch_layout(model, (branch,)):
        inputs = images().to(device).requires_grad_()
        expected = model(inputs)
        (expected_gradient,) = torch.autograd.grad(expected.square().sum(), inputs)
    inputs = images().to(device).requires_grad_()
    logits = attack_model.logits(inputs, (branch,))
    (gradient,) = torch.autograd.grad(logits.square().sum(), inputs)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("branching", ["folded", "grouped"])
def test_groups_of_a_layout_follow_their_branches(branching, device):
    model = randomised(models.build("resnet18", num_classes=7, width=4).double()).to(device).eval()
    attack_model = AttackModel(model, LAYOUTS, dtype=torch.float64, branching=branching)
    both = torch.cat([images(), images().flip(3)]).to(device)
    expected = []
    for branch, group in zip(("base", "mix"), both.chunk(2), strict=True):
        with branch_layout(model, (branch,)):
            expected.append(model(group))
    assert not torch.allclose(expected[0], expected[1])
    for memory_format in (torch.contiguous_format, torch.channels_last):
        logits = attack_model.logits(both.contiguous(memory_format=memory_format), ("base", "mix"))
        torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-9, atol=1e-11)
    alone = attack_model.logits(images().flip(3).to(device), ("mix",))
    torch.testing.assert_close(alone, expected[1], rtol=1e-9, atol=1e-11)


def test_no_batchnorm_is_left_and_nothing_wants_a_gradient():
    attack_model = AttackModel(models.build("resnet18", num_classes=7, width=4), (("base",),))
    modules = list(attack_model._groups[("base",)].modules())
    assert not any("BatchNorm" in type(module).__name__ or isinstance(module, GroupAffine) for module in modules)
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())


class ConvolutionBackwards(TorchDispatchMode):
    """Records which gradients (input, weight, bias) every convolution backward computes."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[list[bool]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            self.masks.append(list(args[-1]))
        return function(*args, **(kwargs or {}))


def test_the_attack_computes_no_weight_gradient():
    attack_model = AttackModel(models.build("resnet18", num_classes=7, width=4), (("base",),))
    inputs = torch.rand(2, 3, 16, 16).requires_grad_()
    logits = attack_model.logits(inputs)
    with ConvolutionBackwards() as recorded:
        torch.autograd.grad(logits.sum(), inputs)
    assert recorded.masks == [[True, False, False]] * 20


def test_refresh_follows_the_model_in_place():
    model = randomised(models.build("resnet18", num_classes=7, width=4).double())
    attack_model = AttackModel(model, LAYOUTS, dtype=torch.float64)
    pointers = {name: tensor.data_ptr() for name, tensor in attack_model._groups[("mix",)].state_dict().items()}
    with branch_layout(model.train(), ("mix",)):
        model(images()).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    stale = attack_model.logits(images(), ("mix",))
    attack_model.refresh()
    with branch_layout(model.eval(), ("mix",)):
        expected = model(images())
    torch.testing.assert_close(attack_model.logits(images(), ("mix",)), expected, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(stale, expected)
    assert pointers == {name: tensor.data_ptr() for name, tensor in attack_model._groups[("mix",)].state_dict().items()}


class Operations(TorchDispatchMode):
    """Counts the operations that would be launches on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view and function is not torch.ops.aten.detach.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("branching", "layouts", "limit"), [("folded", LAYOUTS, 50), ("grouped", LAYOUTS, 10)])
def test_a_refresh_is_few_launches(branching, layouts, limit):
    """One per folded convolution (20 in each of two branches), the rest some operations on lists of tensors."""
    attack_model = AttackModel(
        models.build("resnet18", num_classes=7, width=4), layouts, dtype=torch.bfloat16, branching=branching
    )
    with Operations() as operations:
        attack_model.refresh()
    assert 0 < operations.count <= limit


def test_all_layouts_of_a_grouped_view_share_one_set_of_weights():
    attack_model = AttackModel(models.build("resnet18", num_classes=7, width=4), LAYOUTS, branching="grouped")
    sets = {layout: attack_model._groups[layout] for layout in LAYOUTS}
    pointers = [[parameter.data_ptr() for parameter in module.parameters()] for module in sets.values()]
    assert len(pointers[0]) == 22 and pointers[0] == pointers[1] == pointers[2]


def test_the_model_keeps_its_mode_and_its_gradients():
    model = models.build("resnet18", num_classes=7, width=4).train()
    AttackModel(model)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


class Branching(nn.Module):
    """Depends on its input's values, which fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs):
        features = self.norm(inputs).mean(dim=(2, 3))
        return self.linear(features if inputs.sum() > 0 else -features)


def test_an_untraceable_model_is_served_unfolded_with_a_warning():
    model = randomised(convert_batchnorm(Branching()).double())
    with pytest.warns(UserWarning, match="Branching cannot be traced"):
        attack_model = AttackModel(model, LAYOUTS, dtype=torch.float64)
    twin = copy.deepcopy(model).eval()
    with branch_layout(twin, ("mix",)):
        torch.testing.assert_close(attack_model.logits(images(), ("mix",)), twin(images()))


def test_an_unknown_branch_is_named():
    with pytest.raises(ValueError, match="base, mix, not extra"):
        AttackModel(models.build("resnet18", num_classes=7, width=4), (("extra",),))


def test_low_precision_logits_come_back_in_float32():
    attack_model = AttackModel(models.build("resnet18", num_classes=7, width=4), (("base",),), dtype=torch.bfloat16)
    assert attack_model.logits(torch.rand(2, 3, 16, 16)).dtype == torch.float32
