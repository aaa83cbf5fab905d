"""What the tests of the PGD step share: inputs on which a step goes wrong, the eager expression, equality of bits."""

import math

import torch

from tests.kernels.inputs import generator

EPSILON, STEP = 8 / 255, 2 / 255
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def inputs(shape=(3, 3, 9, 7), seed=0, noise=0.08, device="cpu"):
    """Images in [0, 1], an adversarial image that often lies outside the box, a gradient with zeros and NaN."""
    random = generator(seed)
    images = torch.rand(shape, generator=random)
    images.view(-1)[:4] = torch.tensor([0.0, 1.0, EPSILON, 1 - EPSILON])
    adversarial = (images + noise * (torch.rand(shape, generator=random) - 0.5)).clamp(0, 1)
    gradient = torch.randn(shape, generator=random)
    gradient.view(-1)[3:40:3] = 0.0
    gradient.view(-1)[4] = math.nan
    return adversarial.to(device), gradient.to(device), images.to(device)


def eager(adversarial, gradient, images, step_size=STEP, epsilon=EPSILON):
    step_size, epsilon = (
        value[:, None, None, None] if isinstance(value, torch.Tensor) and value.dim() else value
        for value in (step_size, epsilon)
    )
    stepped = adversarial + step_size * gradient.sign()
    return torch.clamp(torch.min(torch.max(stepped, images - epsilon), images + epsilon), 0, 1)


def assert_same_bits(result, expected):
    assert result.dtype == expected.dtype and result.shape == expected.shape
    assert torch.equal(result.isnan(), expected.isnan())
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[result.element_size()]
    bits = [value.contiguous().view(integers)[~value.contiguous().isnan()] for value in (result, expected)]
    assert torch.equal(*bits)
