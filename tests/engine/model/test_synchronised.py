"""Which BatchNorm layers are replaced by synchronised ones, and by which; what they compute is held by test_distributed."""

import pytest
import torch
from torch import nn

from dat_engine.model import synchronised
from dat_engine.model.branches import convert_batchnorm
from dat_engine.model.synchronised import SynchronisedBatchNorm, synchronise_batchnorm, synchronised_type


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), nn.Flatten(), nn.BatchNorm1d(144, affine=False)
    )
    model(torch.randn(5, 3, 8, 8))  # statistics that differ from the initial ones
    model[3].eval()
    return model


def test_a_gpu_gets_torchs_own_layer():
    assert synchronised_type(torch.device("cuda", 1)) is nn.SyncBatchNorm
    assert synchronised_type(torch.device("cpu")) is SynchronisedBatchNorm


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("branched", [False, True])
def test_the_replacement_has_the_same_tensors_and_settings(monkeypatch, device, branched):
    """The choice for a GPU is made here too; the layers stay where they are, and in eval mode torch's serves the CPU."""
    monkeypatch.setattr(synchronised, "synchronised_type", lambda _: synchronised_type(torch.device(device)))
    model = network()
    if branched:
        convert_batchnorm(model)
    before = dict(model.state_dict(keep_vars=True))
    images = torch.randn(2, 3, 8, 8)
    logits = model.eval()(images)
    model.train()
    synchronise_batchnorm(model)
    after = dict(model.state_dict(keep_vars=True))
    assert list(before) == list(after) and all(before[name] is after[name] for name in before)
    kind = synchronised_type(torch.device(device))
    layers = [layer for layer in model.modules() if isinstance(layer, kind)]
    assert len(layers) == (4 if branched else 2)
    assert not any(type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) for layer in model.modules())
    assert {(layer.eps, layer.momentum, layer.affine) for layer in layers} == {(1e-3, 0.2, True), (1e-5, 0.1, False)}
    assert all(layer.training for layer in layers)
    assert torch.equal(model.eval()(images), logits)


def test_each_layer_keeps_its_mode():
    model = network()
    synchronise_batchnorm(model)
    assert model[1].training and not model[3].training


class NormAndRelu(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def forward(self, features):
        return super().forward(features).relu()


@pytest.mark.parametrize("path", ["1", "2.0"])
def test_a_layer_that_does_more_is_refused_by_name_and_nothing_is_replaced(path):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Identity(), nn.Sequential(nn.Identity()))
    model.set_submodule(path, NormAndRelu(3))
    with pytest.raises(
        ValueError,
        match=rf"layer {path} is a NormAndRelu .*; train without synchronised BatchNorm, or with plain torch.nn.BatchNorm",
    ):
        synchronise_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm2d
