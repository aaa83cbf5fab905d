"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1, which cuts off to bfloat16 where the GPU rounds."""

import pytest
import torch

from dat_kernels import augment
from tests.kernels.inputs import generator

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


@pytest.mark.parametrize("shape", ((9, 3, 32, 32), (9, 3, 5, 6), (9, 1, 64, 64)))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16, torch.float64))
@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize("crop", (None, ((1, -2), (-9, 0), (2**40, 2)), ((4, 4), (0, 0), (-4, 3))))
@pytest.mark.parametrize("flip", (None, (True, False, True)))
def test_equals_reference(shape, dtype, memory_format, crop, flip):
    dataset = torch.randint(0, 256, shape, generator=generator(0), dtype=torch.uint8)
    settings = {
        "crop_offsets": None if crop is None else torch.tensor(crop),
        "flip": None if flip is None else torch.tensor(flip),
        "dtype": dtype,
        "memory_format": memory_format,
    }
    indices = torch.tensor([8, 0, 3])
    result, expected = (augment(dataset, indices, **settings, backend=backend) for backend in ("triton", "reference"))
    assert result.stride() == expected.stride()
    tolerance = 2**-8 if dtype == torch.bfloat16 else 0
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=0)


def test_every_level_is_divided_exactly():
    dataset = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    result = augment(dataset, torch.tensor([0]), backend="triton")
    assert torch.equal(result, dataset.float() / 255)


def test_strided_dataset_and_indices():
    dataset = torch.randint(0, 256, (6, 8, 8, 3), generator=generator(0), dtype=torch.uint8).permute(0, 3, 1, 2)
    indices = torch.tensor([5, 0, 4, 0, 1, 0])[::2]
    flip = torch.tensor([True, False, False])
    assert torch.equal(
        augment(dataset, indices, flip=flip, backend="triton"),
        augment(dataset, indices, flip=flip, backend="reference"),
    )
