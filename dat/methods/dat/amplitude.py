"""The mean amplitude of a data set."""

import torch
from torch import Tensor

from dat_engine.data import ImageArrays, ImageSource, batches, take

__all__ = ["mean_amplitude"]

# 1,024 CIFAR images are 12 MB in float32 and 25 MB as complex64: small beside the data set, large enough for the FFT.
_FFT_CHUNK = 1024
_FILES_CHUNK = 64  # 77 MB as complex64 at 224 pixels
_MOST_FILES = 10_000
_SAMPLE_SEED = 0


def mean_amplitude(source: ImageSource) -> Tensor:
    """Mean of |FFT2(x)| over the un-augmented images x in [0, 1]: float32 [C, H, W], plain FFT order ((0, 0) is DC).

    Images in memory all count. Of files, which have to be decoded for it, 10,000 at most are taken, always the same
    ones and classes balanced (`take`): that is the mean to one percent of its spread.
    """
    device, chunk = source.targets.device, _FFT_CHUNK
    if not isinstance(source, ImageArrays):
        source, chunk = take(source, min(len(source), _MOST_FILES), _SAMPLE_SEED), _FILES_CHUNK
    total = torch.zeros(source.image_shape, dtype=torch.float64, device=device)
    count = 0
    for images, _ in batches(source, chunk, device):
        total += torch.fft.fft2(images).abs().sum(dim=0, dtype=torch.float64)
        count += len(images)
    return (total / count).to(torch.float32)
