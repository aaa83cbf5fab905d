"""Images on which kernels go wrong in different ways, and the yardstick: eager PyTorch's own error against float64."""

import pytest
import torch
from torch import Tensor

from bench.one_over_f import one_over_f
from dat_kernels import available_backends

# White noise hides a lossy transform, for its spectrum is flat; 1/f images show it. Flat and black images have exact
# zeros in their spectra, where the phase factor is 1 by definition and would be noise in a careless transform.
KINDS = ("one_over_f", "random", "flat", "black")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_images(kind: str, shape: tuple[int, int, int, int], seed: int = 0) -> Tensor:
    """[B, C, H, W] float32 in [0, 1] of one of `KINDS`."""
    if kind == "one_over_f":
        return one_over_f(shape, seed=seed)
    random = generator(seed)
    if kind == "random":
        return torch.rand(shape, generator=random)
    if kind == "flat":
        return torch.rand(*shape[:2], 1, 1, generator=random).expand(shape).contiguous()
    return torch.zeros(shape)


def needs(backend: str) -> None:
    """Skip the test where a backend is missing."""
    if backend not in available_backends():
        pytest.skip(
            f"backend {backend} is not available here: dat_kernels.available_backends() is {available_backends()}"
        )


def assert_error_at_most_twice_eager(result: Tensor, eager: Tensor, exact: Tensor) -> None:
    """Compare the planes' worst errors against float64, at the median plane and at the ninth decile.

    One frequency with |X| near 0 makes the error of a whole plane arbitrary, in eager PyTorch as much as in a kernel,
    so the largest error of all planes is a draw of luck and the deciles are not. `slack` is two last bits of the
    largest value.
    """
    slack = 2 * torch.finfo(result.dtype).eps * exact.abs().max().item()
    of_result, of_eager = (
        (value.double() - exact).abs().flatten(2).amax(2).flatten().quantile(torch.tensor([0.5, 0.9]).double())
        for value in (result, eager)
    )
    assert (of_result <= 2 * of_eager + slack).all(), f"errors {of_result.tolist()}, eager {of_eager.tolist()}"
    assert not result.isnan().any()
