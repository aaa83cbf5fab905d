"""The transcribed networks against the same ones built from torch's own layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.oracle.networks import (
    batch_norm,
    generator_amplitude,
    model_logits,
    random_generator_state,
    random_resnet_state,
    random_wide_resnet_state,
    resnet_logits,
    split_state,
    wide_resnet_logits,
)

CLASSES, BATCH, SHAPE = 5, 4, (3, 8, 8)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def random(seed):
    return torch.Generator().manual_seed(seed)


def sample_images(seed=0, shape=SHAPE):
    return torch.rand((BATCH, *shape), generator=random(seed), dtype=torch.float64)


class TorchBlock(nn.Module):
    """A basic block of one branch, from torch's own layers; parameter names as in the oracle's state dict."""

    def __init__(self, channels, out_channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride, bias=False))
            self.shortcut_bn = nn.Sequential(nn.BatchNorm2d(out_channels))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (self.shortcut_bn(self.shortcut(x)) if hasattr(self, "shortcut") else x))


class TorchResNet(nn.Module):
    def __init__(self, width, blocks):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(blocks, start=1):
            out_channels = width * 2 ** (stage - 1)
            layer = []
            for index in range(count):
                layer.append(TorchBlock(channels, out_channels, 2 if stage > 1 and index == 0 else 1))
                channels = out_channels
            setattr(self, f"layer{stage}", nn.Sequential(*layer))
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class TorchWideBlock(nn.Module):
    def __init__(self, channels, out_channels, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        if channels != out_channels:
            self.convShortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x):
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + (self.convShortcut(activated) if hasattr(self, "convShortcut") else x)


class TorchWideResNet(nn.Module):
    def __init__(self, width, blocks, stem):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        channels = stem
        for stage, count in enumerate(blocks, start=1):
            out_channels = width * 2 ** (stage - 1)
            layer = []
            for index in range(count):
                layer.append(TorchWideBlock(channels, out_channels, 2 if stage > 1 and index == 0 else 1))
                channels = out_channels
            block = nn.Module()
            block.layer = nn.Sequential(*layer)
            setattr(self, f"block{stage}", block)
        self.bn1, self.fc = nn.BatchNorm2d(channels), nn.Linear(channels, CLASSES)

    def forward(self, x):
        x = self.block3.layer(self.block2.layer(self.block1.layer(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1).flatten(1))


def one_branch(state, branch):
    """The entries of `state` that one branch uses, under the names a plain network has."""
    if branch == "base":
        return {name: value for name, value in state.items() if "_auto" not in name}
    kept = {name: value for name, value in state.items() if "bn" not in name}
    return kept | {name.replace("_auto", ""): value for name, value in state.items() if "_auto" in name}


RESNET = (resnet_logits, random_resnet_state(3, CLASSES, (1, 2, 1, 1), seed=5), TorchResNet(3, (1, 2, 1, 1)))
WIDE = (
    wide_resnet_logits,
    random_wide_resnet_state(4, CLASSES, (2, 1, 1), seed=6, stem=4),
    TorchWideResNet(4, (2, 1, 1), 4),
)


@pytest.mark.parametrize("branch", ["base", "mix"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("forward", "state", "network"), [RESNET, WIDE], ids=["resnet", "wide"])
def test_network_equals_torch_layers(forward, state, network, training, branch):
    network.double().load_state_dict(one_branch(state, branch))
    images = sample_images()
    before = {name: value.clone() for name, value in state.items()}
    logits, running = forward(state, images, branch, training=training)
    close(logits, network.train(training)(images))
    close(one_branch({**state, **running}, branch), dict(network.state_dict()))
    assert all(torch.equal(state[name], before[name]) for name in state)
    other = "mix" if branch == "base" else "base"
    kept = one_branch({**state, **running}, other)
    assert all(torch.equal(value, one_branch(state, other)[name]) for name, value in kept.items())
    close(model_logits(state, images, branch, training=training)[0], logits)


def test_networks_start_from_the_running_statistics_given():
    _, state, _ = RESNET
    images = sample_images()
    _, once = resnet_logits(state, images, "base", training=True)
    _, twice = resnet_logits(state, images, "base", training=True, running=once)
    assert int(twice["bn1.num_batches_tracked"]) == int(state["bn1.num_batches_tracked"]) + 2
    moved = 0.9 * once["bn1.running_mean"] + (once["bn1.running_mean"] - 0.9 * state["bn1.running_mean"])
    close(twice["bn1.running_mean"], moved)


def test_unknown_branch_is_named():
    with pytest.raises(ValueError, match=r"'auto'.*'base' or 'mix'"):
        resnet_logits(RESNET[1], sample_images(), "auto", training=False)


def test_batch_norm_refuses_a_single_value_per_channel():
    state = random_generator_state(CLASSES, SHAPE, noise_size=6, widths=(8, 8, 8, 8))
    with pytest.raises(ValueError, match=r"model\.3.*larger batch"):
        batch_norm(torch.zeros(1, 8), "model.3", state, split_state(state)[1], training=True)


def test_generator_equals_torch_layers():
    state = random_generator_state(CLASSES, (3, 5, 6), seed=3, noise_size=6, widths=(8, 10, 12, 14))
    layers = [nn.Linear(6 + CLASSES, 8), nn.LeakyReLU(0.2)]
    for channels, out_channels in ((8, 10), (10, 12), (12, 14)):
        layers += [nn.Linear(channels, out_channels), nn.BatchNorm1d(out_channels, eps=0.8), nn.LeakyReLU(0.2)]
    model = nn.Sequential(*layers, nn.Linear(14, 90), nn.Sigmoid()).double()
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    z = torch.randn(BATCH, 6, generator=random(0), dtype=torch.float64)
    logits = torch.randn(BATCH, CLASSES, generator=random(1), dtype=torch.float64)
    centred = model(torch.cat([z, logits], dim=1)).reshape(BATCH, 3, 5, 6)
    amplitude = generator_amplitude(state, z, logits, (3, 5, 6))
    close(amplitude, torch.fft.ifftshift(centred, dim=(-2, -1)))
    close(amplitude[..., 0, 0], centred[..., 2, 3])  # DC lies in the middle of the centred layout
