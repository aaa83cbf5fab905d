"""Vision transformers and ConvNeXt by name: torchvision's networks, their sizes, their start, what they refuse."""

import math

import pytest
import torch
import torchvision

from dat import models
from dat_engine.model.branches import has_batchnorm

NAMES = ("convnext_tiny", "vit_b_16", "convnext_atto_patch2", "vit_tiny_patch4", "vit_lite_patch4")


@pytest.mark.parametrize(
    ("name", "reference"),
    [("convnext_tiny", torchvision.models.convnext_tiny), ("vit_b_16", torchvision.models.vit_b_16)],
)
def test_torchvisions_weights_fit_its_networks(name, reference):
    with torch.device("meta"):
        ours, theirs = models.build(name, num_classes=1000), reference()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # counted by hand from the papers' tables: tokens, blocks, head
        ("vit_tiny_patch4", 3 * 16 * 192 + 192 + 192 + 65 * 192 + 12 * (12 * 192**2 + 13 * 192) + 2 * 192 + 1930),
        ("vit_lite_patch4", 3 * 16 * 256 + 256 + 256 + 65 * 256 + 7 * (8 * 256**2 + 11 * 256) + 2 * 256 + 2570),
    ],
)
def test_transformers_have_their_published_size(name, parameters):
    model = models.build(name, num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_none_has_batchnorm_and_small_ones_take_small_images(name):
    small = {"width": 16, "num_classes": 7} | ({"image_size": (32, 32)} if name == "vit_b_16" else {})
    model = models.build(name, **small)
    assert not has_batchnorm(model)
    size = 224 if name == "convnext_tiny" else 32
    assert model(torch.rand(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["convnext_atto_patch2", "vit_lite_patch4"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_channels_and_sizes(name, channels):
    model = models.build(name, num_classes=3, width=8, in_channels=channels, image_size=(16, 16))
    assert model(torch.rand(2, channels, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_they_keep_torchvisions_initialisation(channels):
    torch.manual_seed(0)
    vit = models.build("vit_tiny_patch4", num_classes=10, in_channels=channels)
    assert vit.conv_proj.weight.std().item() == pytest.approx(0.88 * math.sqrt(1 / (16 * channels)), rel=0.15)
    assert not vit.heads.head.weight.any() and not vit.conv_proj.bias.any()
    convnext = models.build("convnext_atto_patch2", num_classes=10, in_channels=channels)
    for layer in (convnext.features[0][0], convnext.features[1][0].block[0], convnext.features[2][1]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
        assert not layer.bias.any()
    assert convnext.features[1][0].layer_scale.unique().tolist() == [pytest.approx(1e-6)]


@pytest.mark.parametrize("name", ["convnext_atto_patch2", "vit_lite_patch4"])
def test_training_draws_no_random_number_outside_the_step(name):
    model = models.build(name, num_classes=3, width=8).train()
    before = torch.get_rng_state()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), model(images))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_lite_patch4", {"width": 96}, "heads of 64 channels, into which a width of 96 does not divide"),
        ("vit_lite_patch4", {"image_size": (30, 30)}, "whose edge is a multiple of 4; got 30x30"),
        ("vit_b_16", {"image_size": (224, 192)}, "needs square images.*got 224x192"),
        ("convnext_tiny", {"image_size": (16, 16)}, "images of at least 32 pixels; got 16x16"),
        ("convnext_atto_patch2", {"image_size": (32, 8)}, "images of at least 16 pixels; got 32x8"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_built(name, arguments, message):
    arguments = {"width": None, "in_channels": 3, "image_size": (32, 32)} | arguments
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        models.check(name, **arguments)
    with pytest.raises(ValueError, match=message):
        models.build(name, num_classes=10, **arguments)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", models.names())
def test_checking_builds_no_weights_and_draws_nothing(name):
    before = torch.get_rng_state()
    models.check(name, width=None, in_channels=3, image_size=(224, 224))
    assert torch.equal(torch.get_rng_state(), before)
