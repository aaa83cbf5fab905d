"""The transcribed formulas against hand numbers, torch's own functions and second derivations."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.oracle import losses
from tests.oracle.attack import perturb, project, projection_mask
from tests.oracle.updates import sgd_step
from tests.oracle.views import amplitude_mix, crop_and_flip

CLASSES, BATCH, SHAPE = 5, 4, (3, 8, 8)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def random(seed):
    return torch.Generator().manual_seed(seed)


def sample_images(seed=0, shape=SHAPE):
    return torch.rand((BATCH, *shape), generator=random(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 6)])
def test_mix_of_full_spectra_equals_the_form_with_one_real_inverse(shape):
    images = sample_images(0, shape)
    images[0] = 0.0  # U = 1 everywhere
    amplitude = 10 * sample_images(1, shape)
    lam = torch.tensor([0.3, 0.0, 1.0, 0.7], dtype=torch.float64).reshape(-1, 1, 1, 1)
    spectrum = torch.fft.rfft2(images)
    phase_factor = torch.where(spectrum == 0, torch.ones_like(spectrum), spectrum / spectrum.abs())
    mirrored = torch.roll(amplitude.flip(-2, -1), shifts=(1, 1), dims=(-2, -1))
    symmetric = ((amplitude + mirrored) / 2)[..., : spectrum.shape[-1]]
    generated = torch.fft.irfft2(symmetric * phase_factor, s=shape[1:])
    expected = ((1 - lam) * images + lam * generated).clamp(0, 1)
    close(amplitude_mix(images=images, amplitude=amplitude, lam=lam.flatten()), expected)


def test_gradient_of_the_mix_equals_the_closed_form():
    images, lam = sample_images(0), torch.rand(BATCH, generator=random(2), dtype=torch.float64)
    amplitude = (10 * sample_images(1)).requires_grad_()
    upstream = torch.randn(BATCH, *SHAPE, generator=random(3), dtype=torch.float64)
    mixed = amplitude_mix(images=images, amplitude=amplitude, lam=lam)
    (gradient,) = torch.autograd.grad(mixed, [amplitude], upstream)
    inside = (mixed > 0) & (mixed < 1)
    assert 0 < int(inside.sum()) < inside.numel()
    spectrum = torch.fft.fft2(images)
    phase_factor = spectrum / spectrum.abs()
    pixels = SHAPE[1] * SHAPE[2]
    expected = (phase_factor.conj() * torch.fft.fft2(upstream * inside)).real * lam.reshape(-1, 1, 1, 1) / pixels
    close(gradient, expected)


def test_crop_and_flip_moves_pixels_where_the_formula_says():
    images = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(1, 1, 3, 4).repeat(3, 1, 1, 1)
    offsets, flip = torch.tensor([[0, 0], [1, -1], [-1, 2]]), torch.tensor([True, False, True])
    first = [[4, 3, 2, 1], [8, 7, 6, 5], [12, 11, 10, 9]]
    second = [[0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]]
    third = [[0, 0, 0, 0], [0, 0, 4, 3], [0, 0, 8, 7]]
    expected = torch.tensor([first, second, third], dtype=torch.float64).unsqueeze(1)
    assert torch.equal(crop_and_flip(images=images, offsets=offsets, flip=flip), expected)


def test_losses_equal_hand_numbers():
    p, q = (0.5, 0.25, 0.25), (0.25, 0.25, 0.5)
    logits_p = torch.tensor([p, p], dtype=torch.float64).log() + 3.0
    logits_q = torch.tensor([q, q], dtype=torch.float64).log() - 1.0
    kl = 0.25 * math.log(2)  # 0.5·ln 2 - 0.25·ln 2
    close(losses.kl_divergence(logits_p, logits_q).item(), kl)
    # m = (3/8, 1/4, 3/8), the same for both sides by symmetry
    js = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)
    close(losses.jensen_shannon(logits_p, logits_q).item(), js)
    targets = torch.tensor([0, 2])
    close(losses.cross_entropy(logits_p, targets).item(), 1.5 * math.log(2))
    smoothed = 0.7 * 1.5 * math.log(2) + 0.3 * (5 / 3) * math.log(2)
    close(losses.cross_entropy(logits_p, targets, label_smoothing=0.3).item(), smoothed)
    attack = losses.attack_loss(logits_p, logits_q, targets, beta=4.0, label_smoothing=0.0)
    close(attack.item(), 1.5 * math.log(2) + 4 * kl)
    trades = losses.trades_terms(logits_p, logits_q, targets, beta=6.0)
    close(trades["loss"].item(), 1.5 * math.log(2) + 6 * kl)


def test_losses_equal_torch():
    logits = 4 * torch.randn(2, BATCH, CLASSES, generator=random(0), dtype=torch.float64)
    targets = torch.tensor([0, 4, 2, 2])
    close(
        losses.cross_entropy(logits[0], targets, label_smoothing=0.5),
        F.cross_entropy(logits[0], targets, label_smoothing=0.5),
    )
    kl = F.kl_div(F.log_softmax(logits[1], 1), F.softmax(logits[0], 1), reduction="batchmean")
    close(losses.kl_divergence(logits[0], logits[1]), kl)


def test_jensen_shannon_clamps_the_mixture():
    logits = torch.tensor([[0.0, -40.0]], dtype=torch.float64)
    p = math.exp(-40.0)
    # both sides equal: m would equal p, and JS be 0, were the small entry not lifted to 1e-7
    assert losses.jensen_shannon(logits, logits).item() == pytest.approx(p * math.log(p / 1e-7), rel=1e-3, abs=0)


def test_dat_loss_weighs_its_terms():
    groups = {
        name: torch.randn(BATCH, CLASSES, generator=random(seed), dtype=torch.float64)
        for seed, name in enumerate(("clean", "adversarial", "mixed", "mixed_adversarial"))
    }
    terms = losses.dat_terms(groups, torch.tensor([0, 4, 2, 2]), beta=15.0, omega=2.0, label_smoothing=0.5)
    close(terms["at"], terms["cross_entropy"] + 15 * terms["kl"])
    close(terms["mixed_at"], terms["mixed_cross_entropy"] + 15 * terms["mixed_kl"])
    close(terms["loss"], 0.5 * terms["at"] + 0.5 * terms["mixed_at"] + 2 * terms["js"])
    close(terms["mixed_kl"], losses.kl_divergence(groups["mixed"], groups["mixed_adversarial"]))


def test_projection_moves_with_the_image_where_the_box_is_active():
    images = torch.tensor([0.5, 0.5, 0.5, 0.95, 0.05, 0.5], dtype=torch.float64, requires_grad=True)
    proposal = torch.tensor([0.7, 0.3, 0.55, 1.2, -0.2, 0.6], dtype=torch.float64)
    result = project(proposal, images, 0.1)
    close(result, torch.tensor([0.6, 0.4, 0.55, 1.0, 0.0, 0.6], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(result.sum(), [images])
    expected = torch.tensor([1, 1, 0, 0, 0, 0], dtype=torch.float64)
    close(gradient, expected)
    close(projection_mask(proposal, images.detach(), 0.1).double(), expected)


def test_attack_climbs_a_linear_objective_to_the_corner_of_the_box():
    images = torch.full((2, 3), 0.5, dtype=torch.float64)
    images[0, 0] = 0.99
    direction = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    adversarial, mask = perturb(
        logits_of=lambda x: x * direction,
        objective=lambda clean, adversarial: (adversarial - clean).sum(),
        images=images,
        start=images + 0.001,
        epsilon=0.03,
        step_size=0.02,
        steps=3,
    )
    close(adversarial, torch.tensor([[1.0, 0.47, 0.501], [0.53, 0.47, 0.501]], dtype=torch.float64))
    assert mask.tolist() == [[False, True, False], [True, True, False]]


def test_sgd_equals_torch_over_three_steps():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=5e-4)
    parameters, buffers = {"w": parameter.detach().clone(), "unused": torch.ones(1)}, None
    for step in range(3):
        gradient = torch.tensor([0.5, float(step)], dtype=torch.float64)
        parameter.grad = gradient.clone()
        optimizer.step()
        parameters, buffers = sgd_step(
            parameters=parameters,
            gradients={"w": gradient},
            buffers=buffers,
            learning_rate=0.1,
            momentum=0.9,
            weight_decay=5e-4,
        )
    close(parameters["w"], parameter.detach())
    close(parameters["unused"], torch.ones(1))
