"""Philox4x32-10 in PyTorch integers, and the two distributions drawn from it: the definition every backend follows.

Element i (in NCHW order, whatever the strides) takes word i % 4 of the block whose counter is
(low j, high j, low offset, high offset), j = i // 4, under the key (low seed, high seed); low and high are the 32-bit
halves of the two's complement 64-bit value. So a value depends on seed, offset and its own index alone.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF


def random_words(count: int, seed: int | Tensor, offset: int | Tensor, device: torch.device) -> Tensor:
    """[ceil(count / 4), 4] int64 tensor of 32-bit words."""
    return philox_block(torch.arange((count + 3) // 4, device=device), seed, offset)


def philox_block(block: Tensor, seed: int | Tensor, offset: int | Tensor) -> Tensor:
    """[n, 4] words of the blocks whose numbers are given ([n] int64)."""
    stream = torch.as_tensor(offset, device=block.device)
    key = torch.as_tensor(seed, device=block.device)
    counter = [block & LOW, block >> 32 & LOW, (stream & LOW).expand_as(block), (stream >> 32 & LOW).expand_as(block)]
    key_low, key_high = key & LOW, key >> 32 & LOW
    for _ in range(ROUNDS):
        # int64 products wrap, and the wrapped bits are those of the unsigned product
        even, odd = counter[0] * MULTIPLIERS[0], counter[2] * MULTIPLIERS[1]
        counter = [
            (odd >> 32 & LOW) ^ counter[1] ^ key_low,
            odd & LOW,
            (even >> 32 & LOW) ^ counter[3] ^ key_high,
            even & LOW,
        ]
        key_low, key_high = key_low + WEYL[0] & LOW, key_high + WEYL[1] & LOW
    return torch.stack(counter, dim=1)


def uniform(count: int, seed: int | Tensor, offset: int | Tensor, device: torch.device) -> Tensor:
    """[count] float32 in [-1, 1): the upper 24 bits of a word, times 2^-23, minus 1. Every step is exact."""
    words = random_words(count, seed, offset, device).flatten()[:count]
    return (words >> 8).float() * 2.0**-23 - 1.0


def gaussian(count: int, seed: int | Tensor, offset: int | Tensor, device: torch.device) -> Tensor:
    """[count] float32 standard normal values by Box and Muller's transform of the word pairs (0, 1) and (2, 3).

    radius = sqrt(-2 ln u), u = ((a >> 8) + 1) 2^-24 in (0, 1]; angle = 2 pi t, t = (b >> 8) 2^-24; the first element of
    a pair is radius cos(angle), the second radius sin(angle). Largest magnitude: sqrt(48 ln 2) = 5.77. Computed in
    float64 and rounded once; other backends compute in float32 and stay within 2e-6.
    """
    pairs = random_words(count, seed, offset, device).view(-1, 2) >> 8
    radius = torch.sqrt(-2.0 * torch.log((pairs[:, 0] + 1).double() * 2.0**-24))
    angle = pairs[:, 1].double() * (2.0**-23 * math.pi)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1).flatten()[:count].float()
