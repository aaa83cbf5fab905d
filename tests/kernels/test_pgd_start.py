import math

import pytest
import torch

from dat_kernels import pgd_start
from dat_kernels.pgd_step import philox
from tests.kernels.inputs import generator, needs

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("counter", "words"),
    [
        # the generator's published known answers for an all-zero and an all-one counter and key
        (0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (-1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_known_answers(counter, words):
    assert tuple(philox.philox_block(torch.tensor([counter]), counter, counter)[0].tolist()) == words


@pytest.mark.parametrize("seed", [0, 1, -(2**63), 2**63 - 1, 0x1234_5678_9ABC_DEF0])
@pytest.mark.parametrize("offset", [0, 7, -3, 2**40 + 5])
def test_uniform_noise_is_the_same_to_the_bit_on_every_backend(backend, device, seed, offset, poisoned_memory):
    images = torch.rand(3, 3, 9, 7, generator=generator(0))
    result = pgd_start(images.to(device), noise="uniform", scale=0.25, seed=seed, offset=offset, backend=backend)
    noise = philox.uniform(images.numel(), seed, offset, CPU).view(images.shape)
    assert torch.equal(result.cpu(), (images + 0.25 * noise).clamp(0, 1))


def test_gaussian_noise_is_philoxs_within_float32(backend, device):
    images = torch.full((8, 3, 32, 32), 0.5, device=device)
    start = pgd_start(images, noise="gaussian", scale=2**-4, seed=5, offset=2, backend=backend)
    noise = (start.cpu().double() - 0.5).flatten() * 16
    expected = philox.gaussian(images.numel(), 5, 2, CPU).double()
    # sine, cosine and logarithm in float32 on whatever device, and what the sum with the image rounds off
    assert (noise - expected).abs().max() < 4e-6 + 16 * 2**-25


def test_gaussian_noise_is_the_same_within_float32_on_every_instruction_set():
    needs("native")
    from dat_kernels import _native

    images = torch.full((8, 3, 32, 32), 0.5)
    expected = philox.gaussian(images.numel(), 5, 2, CPU).double()
    before = _native.current_instruction_set()
    try:
        for name in _native.instruction_sets():
            _native.use_instruction_set(name)
            start = pgd_start(images, noise="gaussian", scale=2**-4, seed=5, offset=2, backend="native")
            noise = (start.double() - 0.5).flatten() * 16
            # 2e-6 of the noise itself, and what the sum with the image rounds off
            assert (noise - expected).abs().max() < 2e-6 + 16 * 2**-25, name
    finally:
        _native.use_instruction_set(before)


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_a_value_depends_on_seed_offset_and_its_own_index_alone(noise, backend, device, poisoned_memory):
    arguments = {"noise": noise, "scale": 0.1, "seed": 3, "offset": 1, "backend": backend}
    images = torch.rand(4, 3, 10, 7, generator=generator(1)).to(device)
    whole = pgd_start(images, **arguments)
    assert torch.equal(pgd_start(images[:3].clone(), **arguments), whole[:3])
    last = pgd_start(images.to(memory_format=torch.channels_last), **arguments)
    assert torch.equal(last, whole) and last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pgd_start(images.transpose(2, 3).contiguous().transpose(2, 3), **arguments), whole)
    for change in ({"seed": 4}, {"offset": 2}):
        assert (pgd_start(images, **(arguments | change)) == whole).float().mean() < 0.2
    tensors = {"seed": torch.tensor(3, device=device), "offset": torch.tensor(1, device=device)}
    tensors["scale"] = torch.tensor(0.1, device=device)
    assert torch.equal(pgd_start(images, **(arguments | tensors)), whole)


def test_noise_has_the_moments_of_its_distribution():
    count = 200_000
    uniform, gaussian = philox.uniform(count, 1, 0, CPU).double(), philox.gaussian(count, 1, 0, CPU).double()
    assert uniform.min() >= -1 and uniform.max() < 1
    assert gaussian.abs().max() <= math.sqrt(48 * math.log(2))
    bound = 5 / math.sqrt(count)  # five standard errors, up to the factors below
    for values, variance, fourth in ((uniform, 1 / 3, 1 / 5), (gaussian, 1, 3)):
        assert abs(values.mean()) < bound
        assert abs((values**2).mean() - variance) < 2 * bound
        assert abs((values**4).mean() - fourth) < 10 * bound
        for lag in (1, 2, 3, 4):
            assert abs((values[lag:] * values[:-lag]).mean()) < bound


def test_stays_in_the_box_and_in_the_unit_interval(backend, device):
    images = torch.rand(2, 3, 16, 16, generator=generator(2)).to(device)
    start = pgd_start(images, noise="gaussian", scale=0.5, seed=1, epsilon=0.1, backend=backend)
    assert (start - images).abs().max() <= 0.1 + 1e-7 and start.min() >= 0 and start.max() <= 1
    free = pgd_start(images, noise="gaussian", scale=0.5, seed=1, backend=backend)
    assert torch.equal(start, torch.min(torch.max(free, images - 0.1), images + 0.1).clamp(0, 1))
    assert torch.equal(pgd_start(images, noise="uniform", scale=0.0, seed=1, backend=backend), images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_images_get_the_float32_sum_rounded_once(dtype, backend, device):
    images = torch.rand(2, 3, 8, 8, generator=generator(2)).to(device, dtype)
    start = pgd_start(images, noise="uniform", scale=0.1, seed=1, backend=backend)
    expected = pgd_start(images.float(), noise="uniform", scale=0.1, seed=1, backend=backend).to(dtype)
    assert torch.equal(start, expected)


def test_result_is_a_constant_and_compiles_without_graph_breaks(backend, device):
    images = torch.rand(2, 3, 8, 8, generator=generator(2)).to(device).requires_grad_()

    def start(images, seed):
        return pgd_start(images, noise="uniform", scale=0.1, seed=seed, backend=backend)

    seed = torch.tensor(9, device=device)
    expected = start(images, seed)
    assert not expected.requires_grad
    torch._dynamo.reset()
    compiled = torch.compile(start, fullgraph=True, backend="aot_eager" if device.type == "cpu" else "inductor")
    assert torch.equal(compiled(images, seed), expected)
    assert start(torch.empty(0, 3, 8, 8, device=device), 1).shape == (0, 3, 8, 8)


WRONG = {
    "noise": ({"noise": "normal"}, ValueError, r"noise is 'normal'; it must be one of \('gaussian', 'uniform'\)"),
    "integer images": ({"images": torch.zeros(1, 1, 2, 2).int()}, TypeError, "images has dtype torch.int32"),
    "negative scale": ({"scale": -1.0}, ValueError, "scale is -1.0; it must be at least 0"),
    "negative box": ({"epsilon": -0.1}, ValueError, "epsilon is -0.1; it must be at least 0"),
    "float seed": ({"seed": 1.5}, TypeError, "seed is a float"),
    "seed of 65 bits": ({"seed": 2**63}, ValueError, "seed is 9223372036854775808; it must fit"),
    "seed per sample": ({"seed": torch.tensor([1, 2])}, TypeError, r"seed is a torch.int64 tensor of shape \(2,\)"),
    "float offset tensor": ({"offset": torch.tensor(1.0)}, TypeError, "offset is a torch.float32 tensor"),
    "seed elsewhere": ({"seed": torch.tensor(1, device="meta")}, ValueError, "seed is on meta"),
}


@pytest.mark.parametrize(("changes", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_named(changes, error, message):
    correct = {"images": torch.zeros(1, 1, 2, 2), "noise": "uniform", "scale": 0.1, "seed": 1}
    with pytest.raises(error, match=message):
        pgd_start(**(correct | changes))
