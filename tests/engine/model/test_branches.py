import copy

import pytest
import torch
import torchvision
from torch import nn

from dat_engine.model.branches import BranchedBatchNorm, branch_layout, branch_names, convert_batchnorm


def small_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    return model


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_converted_model_starts_as_the_original_on_every_branch():
    model = small_model()
    converted = convert_batchnorm(copy.deepcopy(model))
    for branch in ("base", "mix"):
        with branch_layout(converted, (branch,)):
            torch.testing.assert_close(converted(images(4)), copy.deepcopy(model)(images(4)))


def test_converter_serves_torchvision_models():
    model = convert_batchnorm(torchvision.models.resnet18(num_classes=7))
    assert branch_names(model) == ("base", "mix")
    assert sum(isinstance(module, BranchedBatchNorm) for module in model.modules()) == 20
    with branch_layout(model.eval(), ("base", "mix")):
        assert model(torch.rand(4, 3, 32, 32)).shape == (4, 7)


def test_groups_are_normalised_and_counted_as_if_passed_one_by_one():
    grouped = convert_batchnorm(small_model()).double().train()
    sequential = copy.deepcopy(grouped)
    layout = ("base", "base", "mix", "base")
    batch = images(12).double()
    with branch_layout(grouped, layout):
        together = grouped(batch)
    apart = []
    for branch, group in zip(layout, batch.chunk(4), strict=True):
        with branch_layout(sequential, (branch,)):
            apart.append(sequential(group))
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-12, atol=1e-12)
    for name, value in grouped.state_dict().items():
        torch.testing.assert_close(value, sequential.state_dict()[name], rtol=1e-12, atol=0, msg=name)


def test_branches_do_not_share_statistics():
    model = convert_batchnorm(small_model()).train()
    before = model[1]["base"].running_mean.clone()
    with branch_layout(model, ("mix",)):
        model(images(4))
    assert torch.equal(model[1]["base"].running_mean, before)
    assert not torch.equal(model[1]["mix"].running_mean, before)


def test_layout_is_put_back_after_an_error_and_in_copies():
    model = convert_batchnorm(small_model())
    twin = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="stop"), branch_layout(model, ("mix",)):
        assert twin[1].selection.layout == ("base",)
        raise RuntimeError("stop")
    assert model[1].selection.layout == ("base",)


def test_wrong_use_is_named():
    model = convert_batchnorm(small_model())
    with (
        pytest.raises(ValueError, match="batch of 5 does not divide into 2 equal groups"),
        branch_layout(model, ("base", "mix")),
    ):
        model(images(5))
    with pytest.raises(ValueError, match="has the branches base, mix, not extra"), branch_layout(model, ("extra",)):
        pass
    with pytest.raises(ValueError, match="already"):
        convert_batchnorm(model)
    with pytest.raises(ValueError, match="no BatchNorm"):
        convert_batchnorm(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="distinct"):
        convert_batchnorm(small_model(), ("base", "base"))
