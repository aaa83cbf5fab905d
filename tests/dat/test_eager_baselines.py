"""The eager baselines against the float64 transcription of the method, and what they cost."""

import pytest
import torch

from dat.profiling.baselines import eager_dat
from dat.profiling.baselines.eager_dat import EagerDAT, StepNoise, draw_noise
from dat.profiling.baselines.eager_pgd_at import EagerPGDAT
from dat_engine.profile.flops import count_flops
from tests.oracle.method import crop_and_flip, dat_step, pgd_at_step
from tests.oracle.networks import random_generator_state, random_resnet_state

WIDTH, CLASSES, BATCH, SHAPE, BLOCKS = 3, 5, 4, (3, 8, 8), (1, 1, 1, 1)
TOLERANCE = {"rtol": 1e-8, "atol": 1e-8}


def batch(seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand((BATCH, *SHAPE), generator=draw, dtype=torch.float64)
    originals = torch.rand((BATCH, *SHAPE), generator=draw, dtype=torch.float64)
    return images, originals, torch.tensor([0, 4, 2, 2])


def small_dat():
    baseline = EagerDAT(
        width=WIDTH,
        num_classes=CLASSES,
        dtype=torch.float64,
        image_shape=SHAPE,
        blocks=BLOCKS,
        noise_size=6,
        generator_widths=(8, 8, 8, 8),
    )
    baseline.model.load_state_dict(random_resnet_state(WIDTH, CLASSES, BLOCKS, seed=1))
    baseline.generator.load_state_dict(
        random_generator_state(CLASSES, SHAPE, seed=2, noise_size=6, widths=(8, 8, 8, 8))
    )
    return baseline


def assert_parameters_and_statistics(module, parameters, running):
    actual = module.state_dict()
    for name, value in {**parameters, **running}.items():
        torch.testing.assert_close(actual[name], value, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_eager_dat_follows_the_transcription_for_three_steps():
    baseline = small_dat()
    buffers, generator_buffers = None, None
    for index in range(3):
        torch.manual_seed(index)
        images, originals, targets = batch(index)
        noise = draw_noise(images, noise_size=6)
        expected = dat_step(
            model_state=baseline.model.state_dict(),
            generator_state=baseline.generator.state_dict(),
            images=images,
            originals=originals,
            targets=targets,
            z=noise.z,
            lam=noise.lam,
            start_noise=noise.start,
            mix_start_noise=noise.mix_start,
            mix_offsets=noise.mix_offsets,
            mix_flip=noise.mix_flip,
            generator_update="alternating",
            momentum_buffers=buffers,
            generator_momentum_buffers=generator_buffers,
        )
        buffers, generator_buffers = expected["momentum_buffers"], expected["generator_momentum_buffers"]
        loss = baseline.step(images, originals, targets, noise)
        torch.testing.assert_close(loss, expected["loss"], **TOLERANCE)
        assert_parameters_and_statistics(baseline.model, expected["model_after"], expected["running_after"])
        assert_parameters_and_statistics(baseline.generator, expected["generator_after"], {})


def test_eager_pgd_at_follows_the_transcription():
    state = random_resnet_state(WIDTH, CLASSES, BLOCKS, seed=1)
    baseline = EagerPGDAT(width=WIDTH, num_classes=CLASSES, dtype=torch.float64, blocks=BLOCKS)
    baseline.model.load_state_dict(state)
    images, originals, targets = batch()
    noise = 2 * originals - 1
    expected = pgd_at_step(model_state=state, images=images, targets=targets, start_noise=noise)
    loss = baseline.step(images, originals, targets, noise)
    torch.testing.assert_close(loss, expected["loss"], **TOLERANCE)
    assert_parameters_and_statistics(baseline.model, expected["model_after"], expected["running_after"])


def test_draws_without_given_noise_differ_from_step_to_step():
    torch.manual_seed(0)
    images, originals, targets = batch()
    first, second = draw_noise(images, noise_size=6), draw_noise(images, noise_size=6)
    assert isinstance(first, StepNoise)
    assert not torch.equal(first.z, second.z) and not torch.equal(first.lam, second.lam)
    losses = {float(small_dat().step(images, originals, targets)) for _ in range(2)}
    assert len(losses) == 2


def test_crop_and_flip_equals_the_loop():
    images, _, _ = batch()
    offsets, flip = torch.tensor([[3, -3], [0, 1], [-2, 0], [1, 2]]), torch.tensor([True, False, True, False])
    expected = crop_and_flip(images=images, offsets=offsets, flip=flip)
    assert torch.equal(eager_dat.crop_and_flip(images, offsets, flip), expected)


@pytest.mark.parametrize("method", ["dat", "pgd_at"])
def test_cost_in_forward_equivalents(method):
    images, targets = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    if method == "dat":
        baseline, expected, stem_backwards_saved = EagerDAT(width=8, generator_widths=(8, 8, 8, 8)), 55, 6
    else:
        baseline, expected, stem_backwards_saved = EagerPGDAT(width=8), 23, 1
    forward = count_flops(lambda: baseline.model(images))
    stem = count_flops(lambda: baseline.model.conv1(images))
    # images that want no gradient spare the first convolution its backward to the inputs: x and x' in both passes of
    # DAT, x̂ and x̂' in the first
    cost = count_flops(lambda: baseline.step(images, images, targets)) + stem_backwards_saved * stem
    assert cost / forward == pytest.approx(expected, abs=0.05)
