"""Convolutions that take residual and ReLU along: the same numbers as one operation after the other, where they may."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from dat import models
from dat_engine.attack import fused_epilogues
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.fused_epilogues import FusedConvolution, convolution_relu
from dat_engine.model.branches import convert_batchnorm
from dat_engine.run.determinism import deterministic

GEOMETRY = [2, 2], [1, 1], [1, 1]


def tensors(dtype=torch.float64, *, residual=True):
    """Images, weight, bias and residual of a strided convolution."""
    generator = torch.Generator().manual_seed(0)
    images, weight, bias, other = (
        torch.randn(shape, generator=generator, dtype=dtype)
        for shape in ((2, 3, 7, 7), (4, 3, 3, 3), (4,), (2, 4, 4, 4))
    )
    return images.requires_grad_(), weight, bias, other.requires_grad_() if residual else None


@pytest.mark.parametrize("residual", [True, False])
def test_the_operation_and_its_gradients_are_those_of_the_plain_ones(residual):
    given = tensors(residual=residual)
    wanted = [tensor for tensor in given if tensor is not None and tensor.requires_grad]
    plain = torch.conv2d(*given[:3], *GEOMETRY) + (0 if given[3] is None else given[3])
    results = []
    for result in (convolution_relu(*given, *GEOMETRY), plain.relu()):
        gradients = torch.autograd.grad(result.sin().sum(), wanted)
        results.append((result, *gradients))
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)
    assert 0 < int((results[0][0] == 0).sum()) < results[0][0].numel()


def test_the_operation_is_what_the_compiler_is_told():
    torch.library.opcheck(convolution_relu, (*tensors(torch.float32), *GEOMETRY))


@pytest.mark.parametrize("residual", [True, False])
def test_cudnn_is_given_its_arguments_in_its_order(residual, monkeypatch):
    """What there is no GPU for: torch's own schema says which argument is which."""
    given, name = tensors(residual=residual), f"cudnn_convolution_{'add_' if residual else ''}relu"
    expected = convolution_relu(*given, *GEOMETRY)
    calls = []

    def stand_in(*values):
        schema = getattr(torch.ops.aten, name).default._schema
        told = {argument.name: value for argument, value in zip(schema.arguments, values, strict=True)}
        calls.append(told)
        features = torch.conv2d(
            *(told[word] for word in ("self", "weight", "bias", "stride", "padding", "dilation", "groups"))
        )
        return (features + (told["alpha"] * told["z"] if residual else 0)).relu()

    monkeypatch.setattr(fused_epilogues, "_by_cudnn", lambda images: True)
    monkeypatch.setattr(torch, name, stand_in)
    assert torch.equal(convolution_relu(*given, *GEOMETRY), expected) and len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("residual", [True, False])
def test_what_the_results_memory_held_before_is_not_in_it(residual, dtype, device):
    """Without a residual cuDNN is given the result's own memory for one, times 0, and 0 times NaN would be NaN."""
    generator = torch.Generator().manual_seed(0)
    images, weight, bias, other = (
        torch.randn(shape, generator=generator).to(device, dtype)
        for shape in ((4, 16, 12, 12), (16, 16, 3, 3), (16,), (4, 16, 6, 6))
    )
    images, weight, other = (t.contiguous(memory_format=torch.channels_last) for t in (images, weight, other))
    expected = torch.conv2d(images.double(), weight.double(), bias.double(), *GEOMETRY)
    expected = (expected + (other.double() if residual else 0)).relu()
    for _ in range(3):
        junk = [torch.full_like(other, torch.nan) for _ in range(16)]
        del junk
        result = convolution_relu(images, weight, bias, other if residual else None, *GEOMETRY)
        assert result.dtype == dtype and result.stride() == other.stride()
        torch.testing.assert_close(result.double(), expected, rtol=0.02, atol=0.15)


def test_cudnn_is_asked_on_a_gpu_in_the_formats_that_it_fuses_and_not_where_bits_must_repeat():
    def asked(**image):
        return fused_epilogues._by_cudnn(SimpleNamespace(**{"is_cuda": True, "dtype": torch.bfloat16, **image}))

    assert asked() and asked(dtype=torch.float32)
    assert not asked(dtype=torch.float64) and not asked(is_cuda=False)
    with deterministic():
        assert not asked()


class Block(nn.Module):
    """A network of one wiring of convolution, BatchNorm and ReLU."""

    def __init__(self, wiring, **options) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.wiring = wiring
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.convolution = nn.Conv2d(4, 4, 3, padding=1, **options)
        self.normalisation = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1)
        self.activation = nn.ReLU(inplace=True)
        self.linear = nn.Linear(4, 3)

    def forward(self, images):
        return self.linear(self.wiring(self, self.stem(images)).mean((2, 3)))

    def normalised(self, features):
        return self.normalisation(self.convolution(features))


def added(block, features):
    out = block.normalised(features)
    out += features
    return block.activation(out)


def added_to_the_features(block, features):
    shortcut = block.other(features)
    shortcut += block.normalised(features)
    return shortcut.relu()


def spread(block, features):
    return functional.relu(block.normalised(features) + features.mean((2, 3), keepdim=True))


def written_to_behind(block, features):
    shortcut = block.other(features)
    total = block.normalised(features) + shortcut
    shortcut = functional.relu_(shortcut)
    return functional.relu(total) + shortcut


def used_besides(block, features):
    out = block.normalised(features)
    return functional.relu(out) + out


@pytest.mark.parametrize(
    ("wiring", "options", "fused"),
    [
        (lambda block, features: functional.relu(block.normalised(features)), {}, 1),
        (lambda block, features: torch.relu_(block.normalised(features) + features), {"bias": False}, 1),
        (lambda block, features: (features + block.normalised(features)).relu_(), {}, 1),
        (lambda block, features: block.activation(block.normalised(features) + block.other(features)), {}, 1),
        (added, {}, 1),
        (added_to_the_features, {}, 1),  # the shortcut, which is written to
        (spread, {}, 1),  # which falls back to operations one by one
        (written_to_behind, {}, 1),
        (used_besides, {}, 0),
        (lambda block, features: functional.relu(block.normalised(block.normalised(features))), {}, 0),
        (lambda block, features: functional.relu(block.normalised(features) * 2), {}, 0),
        (lambda block, features: functional.leaky_relu(block.normalised(features)), {}, 0),
        (lambda block, features: functional.relu(block.normalised(features)), {"groups": 2}, 0),
        (lambda block, features: functional.relu(block.normalised(features)), {"padding_mode": "circular"}, 0),
        (lambda block, features: functional.relu(block.normalised(functional.relu(features))), {}, 2),
    ],
)
def test_what_may_be_fused_is_and_the_attack_stays_the_same(wiring, options, fused):
    model = Block(wiring, **options)
    convert_batchnorm(model, ("base",))
    with torch.no_grad():
        model.double()(torch.rand(8, 2, 5, 5, dtype=torch.float64))
    views = [AttackModel(model, dtype=torch.float64, fused_epilogues=on) for on in (True, False)]
    assert [view.fused_convolutions for view in views] == [fused, 0]
    results = []
    for view in views:
        images = torch.rand(4, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        logits = view.logits(images.requires_grad_())
        results.append((logits, *torch.autograd.grad(logits.square().sum(), images)))
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-14)


def test_a_residual_of_another_dtype_is_added_as_torch_adds_it():
    layer = nn.Conv2d(2, 2, 1).bfloat16()
    images, residual = torch.rand(1, 2, 3, 3).bfloat16(), torch.rand(1, 2, 3, 3)
    assert torch.equal(FusedConvolution(layer)(images, residual), functional.relu(layer(images) + residual))


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("resnet8", 7),  # the stem and both convolutions of three blocks, not the two shortcuts
        ("wrn28-10", 13),  # the stem and the first convolution of twelve blocks
    ],
)
def test_our_networks(name, fused):
    model = models.build(name, num_classes=3, width=2)
    assert AttackModel(model, fused_epilogues=True).fused_convolutions == fused


def test_a_grouped_attack_has_nothing_to_fuse_into():
    with pytest.raises(ValueError, match="which a grouped attack model has none of"):
        AttackModel(models.build("resnet8", num_classes=3, width=2), branching="grouped", fused_epilogues=True)


def test_a_padded_stem_stays_beside_fused_layers():
    model = models.build("resnet8", num_classes=3, width=8).double()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    view = AttackModel(model, dtype=torch.float64, padded_stem=True, fused_epilogues=True)
    plain = AttackModel(model, dtype=torch.float64)
    assert view.fused_convolutions == 6
    torch.testing.assert_close(view.logits(images), plain.logits(images), rtol=1e-12, atol=1e-14)


def test_a_view_that_has_to_go_takes_its_fused_layers_along(monkeypatch):
    monkeypatch.setattr(FusedConvolution, "forward", lambda self, images, residual=None: self.layer(images))
    model = models.build("resnet8", num_classes=3, width=4)
    view = AttackModel(model, fused_epilogues=True)
    with pytest.warns(UserWarning, match="the folded copy of ResNet is not used"):
        view.logits(torch.rand(2, 3, 8, 8))
    assert view.fused_convolutions == 0
