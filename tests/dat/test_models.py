import pytest
import torch
import torchvision

from dat import AmplitudeGenerator, models
from dat.methods.dat.generator import frequency_interpolation
from dat_engine.model.branches import branch_layout
from tests.oracle.networks import (
    random_generator_state,
    random_resnet_state,
    random_wide_resnet_state,
    resnet_logits,
    wide_resnet_logits,
)


def images(channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "published"), [("resnet18", 11_173_962), ("wrn34-10", 46_160_474), ("wrn28-10", 36_479_194)]
)
def test_published_architectures_have_their_published_size(name, published):
    model = models.build(name, num_classes=10)
    assert sum(value.numel() for key, value in model.named_parameters() if ".mix." not in key) == published


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("branch", ["base", "mix"])
def test_reference_resnet_checkpoint(branch, prefix):
    state = random_resnet_state(width=4, num_classes=7, blocks=(2, 2, 2, 2), seed=1)
    model = models.build("resnet18", num_classes=7, width=4).double().eval()
    models.load_reference_state_dict(model, {prefix + name: value for name, value in state.items()})
    expected, _ = resnet_logits(state, images(), branch, training=False)
    with branch_layout(model, (branch,)):
        torch.testing.assert_close(model(images()), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("branch", ["base", "mix"])
def test_reference_wide_resnet_checkpoint(branch):
    state = random_wide_resnet_state(width=4, num_classes=7, blocks=(4, 4, 4), seed=1)
    model = models.build("wrn28-10", num_classes=7, width=4).double().eval()
    models.load_reference_state_dict(model, state)
    expected, _ = wide_resnet_logits(state, images(), branch, training=False)
    with branch_layout(model, (branch,)):
        torch.testing.assert_close(model(images()), expected, rtol=1e-9, atol=1e-11)


def test_misfit_checkpoints_change_nothing():
    model = models.build("resnet18", num_classes=7, width=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = random_resnet_state(width=4, num_classes=7, blocks=(2, 2, 2, 2), seed=1)
    lacking = {name: value for name, value in state.items() if not name.startswith("bn1_auto")}
    with pytest.raises(ValueError, match=r"lacks bn1\.mix"):
        models.load_reference_state_dict(model, lacking)
    with pytest.raises(ValueError, match="unknown layer9"):
        models.load_reference_state_dict(model, {**state, "layer9.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"another shape of .* and \d+ more"):
        models.load_reference_state_dict(model, random_resnet_state(width=8, num_classes=7, blocks=(2, 2, 2, 2)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_the_second_branch_takes_the_first_of_a_checkpoint():
    state = random_resnet_state(width=4, num_classes=7, blocks=(2, 2, 2, 2), seed=1)
    model = models.build("resnet18", num_classes=7, width=4, branches=("base",)).double().eval()
    models.load_reference_state_dict(model, state)
    expected, _ = resnet_logits(state, images(), "base", training=False)
    torch.testing.assert_close(model(images()), expected, rtol=1e-9, atol=1e-11)


def test_default_forward_is_branch_base():
    model = models.build("resnet18", num_classes=7, width=4).double().eval()
    with branch_layout(model, ("base",)):
        expected = model(images())
    assert torch.equal(model(images()), expected)


def test_convolutions_start_kaiming_fan_out():
    model = models.build("resnet18", num_classes=10)
    weight = dict(model.named_parameters())["layer2.0.conv1.weight"]
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19", "num_classes": 10}, "no model is called 'resnet19'; did you mean resnet18"),
        ({"name": "resnet18", "num_classes": 1}, "at least 2 classes"),
        ({"name": "resnet18", "num_classes": 10, "width": 0}, "width must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build(**arguments)


def test_torchvision_names_are_not_reference_names():
    with pytest.raises(ValueError, match="does not fit ResNet"):
        models.load_reference_state_dict(
            models.build("resnet18", num_classes=1000), torchvision.models.resnet18().state_dict()
        )


def test_generator_takes_the_authors_checkpoint_and_refuses_others():
    generator = AmplitudeGenerator(10, (3, 16, 16)).double()
    state = random_generator_state(num_classes=10, shape=(3, 16, 16), seed=1)
    generator.load_reference_state_dict({f"module.{name}": value for name, value in state.items()})
    assert torch.equal(generator.model[0].weight, state["model.0.weight"])
    with pytest.raises(ValueError, match=r"does not fit a generator of \(3, 16, 16\)"):
        generator.load_reference_state_dict(random_generator_state(num_classes=10, shape=(3, 8, 8), seed=1))
    with pytest.raises(ValueError, match=r"model\.0\.bias"):
        generator.load_reference_state_dict({name: value for name, value in state.items() if name != "model.0.bias"})


def test_generator_range_and_scale():
    scale = torch.rand(3, 8, 8) * 50
    torch.manual_seed(0)
    unit = AmplitudeGenerator(10, (3, 8, 8))
    scaled = AmplitudeGenerator(10, (3, 8, 8), amplitude_scale=scale)
    scaled.load_state_dict(unit.state_dict(), strict=False)
    latent, logits = torch.randn(4, 100), torch.randn(4, 10)
    amplitude = unit(latent, logits)
    assert amplitude.min() >= 0 and amplitude.max() <= 1
    torch.testing.assert_close(scaled(latent, logits), amplitude * scale)
    with pytest.raises(ValueError, match="amplitude_scale must have the shape"):
        AmplitudeGenerator(10, (3, 8, 8), amplitude_scale=torch.ones(3, 4, 4))


def test_generator_starts_xavier_with_zero_bias():
    torch.manual_seed(0)
    generator = AmplitudeGenerator(10)
    last = generator.model[11]
    assert last.weight.std().item() == pytest.approx((2 / (1024 + 3072)) ** 0.5, rel=0.01)
    assert all(not layer.bias.any() for layer in generator.model if isinstance(layer, torch.nn.Linear))


def test_coarse_generator_fits_large_images():
    torch.manual_seed(0)
    generator = AmplitudeGenerator(10, (3, 224, 224), coarse_size=32)
    assert sum(parameter.numel() for parameter in generator.parameters()) < 5_000_000
    coarse = generator.model(torch.cat([torch.zeros(4, 100), torch.eye(4, 10)], dim=1)).view(4, 3, 32, 32)
    amplitude = generator(torch.zeros(4, 100), torch.eye(4, 10))
    assert amplitude.shape == (4, 3, 224, 224) and amplitude.min() >= 0 and amplitude.max() <= 1
    torch.testing.assert_close(amplitude[..., 0, 0], coarse[..., 0, 0])  # DC stays DC
    torch.testing.assert_close(amplitude[..., 7, -14], coarse[..., 1, -2])  # 7 / 224 = 1 / 32, -14 / 224 = -2 / 32


@pytest.mark.parametrize(("size", "coarse"), [(224, 32), (64, 63), (17, 4), (8, 8)])
def test_frequency_interpolation_keeps_constants_dc_and_order(size, coarse):
    matrix = frequency_interpolation(size, coarse).double()
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(size, dtype=torch.float64))
    assert matrix[0].argmax() == 0 and matrix[0, 0] == 1
    ramp = torch.fft.fftfreq(coarse, dtype=torch.float64).abs()
    inside = torch.fft.fftfreq(size).abs() < 0.5 - 1 / coarse
    torch.testing.assert_close(
        (matrix @ ramp)[inside], torch.fft.fftfreq(size, dtype=torch.float64).abs()[inside], rtol=1e-6, atol=1e-6
    )
    if size == coarse:
        assert torch.equal(matrix, torch.eye(size, dtype=torch.float64))


def test_coarse_size_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"coarse_size must lie in 2\.\.16"):
        AmplitudeGenerator(10, (3, 16, 16), coarse_size=17)
