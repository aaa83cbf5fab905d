"""Small 8-bit images, and counts held against counts."""

import torch


def images(n=8, shape=(3, 16, 16), seed=0):
    """Smooth uint8 images [n, C, H, W] of all contrasts; the first one is flat."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(n, *shape, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 1.8
    contrast = torch.linspace(0, 1, n).view(-1, 1, 1, 1)
    return (((smooth - 0.5) * contrast + 0.4).clamp(0, 1) * 255).round().to(torch.uint8)


def largest_gap_of_distributions(one, other):
    """The Kolmogorov-Smirnov distance of two samples."""
    points = torch.cat([one, other]).sort().values
    below = [torch.searchsorted(sample.sort().values, points, right=True) / len(sample) for sample in (one, other)]
    return (below[0] - below[1]).abs().max().item()


def same_distribution(one, other):
    """Whether the distance of two samples, float [n] each, is one that 99.9 % of samples of one distribution have."""
    bound = 1.95 * (1 / len(one) + 1 / len(other)) ** 0.5
    return largest_gap_of_distributions(one.double(), other.double()) < bound


def near_share(found, share):
    """Whether the mean of a bool tensor [n] is one that 99.9 % of samples of that probability have."""
    return abs(found.double().mean().item() - share) < 3.3 * (share * (1 - share) / len(found)) ** 0.5 + 1e-12
