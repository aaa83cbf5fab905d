"""Every BatchNorm family of torchvision and timm: conversion changes no logit, and the view has the model's own logits."""

import warnings

import pytest
import torch
import torchvision
from torch import nn

from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.verification import TOLERANCES, compare, own_logits
from dat_engine.model.branches import branch_layout, convert_batchnorm

timm = pytest.importorskip("timm", reason="timm is not installed (it is in the test extra)")

TIMM = (
    "densenet121",
    "dla46_c",
    "efficientnet_b0",
    "ese_vovnet19b_slim_dw",
    "ghostnet_050",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "regnetx_002",
    "regnety_002",
    "resnet10t",
    "rexnet_100",
    "semnasnet_075",
    "test_byobnet",
    "test_efficientnet",
    "test_nfnet",
    "test_resnet",
)
TORCHVISION = {
    "resnet18": {},
    "densenet": {"growth_rate": 8, "block_config": (2, 2, 2, 2), "num_init_features": 16},
    "mobilenet_v2": {"width_mult": 0.25},
    "mobilenet_v3_small": {"width_mult": 0.5},
    "mnasnet0_5": {},
    "shufflenet_v2_x0_5": {},
    "regnet_y_400mf": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "squeezenet1_1": {},
}


def created(family: str) -> nn.Module:
    library, name = family.split("/")
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name, num_classes=7)
    if name == "densenet":
        return torchvision.models.DenseNet(num_classes=7, **TORCHVISION[name])
    return getattr(torchvision.models, name)(num_classes=7, **TORCHVISION[name])


def with_statistics(model: nn.Module) -> nn.Module:
    """Statistics and affine parameters that no mistake survives, around those of the network's own activations."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
        generator = torch.Generator().manual_seed(2)
        for norm in norms:
            for tensor, low in ((norm.running_var, 0.7), (norm.weight, 0.7)):
                tensor.mul_(low + 0.6 * torch.rand(tensor.shape, generator=generator))
            for tensor in (norm.running_mean, norm.bias):
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize(
    "family", [*(f"timm/{name}" for name in TIMM), *(f"torchvision/{name}" for name in TORCHVISION)]
)
def test_the_converted_model_and_every_view_have_the_models_own_logits(family):
    model = with_statistics(created(family)).double()  # where no random network's rounding looks like a mistake
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
    assert expected.std() > 1e-3  # a network whose logits are all alike would hide every mistake
    layouts = [("base",)]
    views = [AttackModel(model, dtype=torch.float64)]
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        convert_batchnorm(model)
        layouts.append(("base", "mix"))
        views.append(AttackModel(model, (("base", "mix"),), dtype=torch.float64, branching="grouped"))
        for branch in ("base", "mix"):
            assert torch.equal(own_logits(model, images, (branch,)), expected)
        perturb(model)
        with branch_layout(model, ("mix",)), torch.no_grad():
            assert not compare(model(images), expected, torch.float32).tolerable  # the branches are two networks
    for attack_model, layout in zip(views, layouts, strict=True):
        attack_model.refresh()
        own = own_logits(model, torch.cat([images] * len(layout)), layout)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # served by what was built, not by a fallback
            given = attack_model.logits(torch.cat([images] * len(layout)), layout)
        assert compare(given, own, torch.float64).share < TOLERANCES[torch.float64] / 100


def perturb(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if ".mix." in name:
                tensor.mul_(0.8 + 0.4 * torch.rand(tensor.shape, generator=generator))
