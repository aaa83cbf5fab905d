import pytest
import torch

from dat import losses
from tests.oracle import losses as oracle


def logits(count: int, scale: float = 3.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(scale * torch.randn(6, 10, generator=generator, dtype=torch.float64) for _ in range(count))


TARGETS = torch.tensor([0, 3, 9, 9, 1, 4])


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0], ids=["flat", "usual", "saturated"])
def test_dat_loss_and_its_gradient_equal_the_oracle(scale):
    ours = [value.clone().requires_grad_() for value in logits(4, scale)]
    theirs = [value.clone().requires_grad_() for value in logits(4, scale)]
    loss = losses.dat_loss(*ours, TARGETS, beta=15.0, omega=2.0, label_smoothing=0.5)
    names = ("clean", "adversarial", "mixed", "mixed_adversarial")
    expected = oracle.dat_terms(
        dict(zip(names, theirs, strict=True)), TARGETS, beta=15.0, omega=2.0, label_smoothing=0.5
    )["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
    for one, other in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_smoothed_targets_are_those_of_cross_entropy():
    (values,) = logits(1)
    soft = losses.smoothed_targets(TARGETS, 10, 0.5, torch.float64)
    assert torch.allclose(soft.sum(dim=1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(
        -(soft * values.log_softmax(1)).sum(1).mean(), oracle.cross_entropy(values, TARGETS, label_smoothing=0.5)
    )


def test_the_attack_gradient_is_that_of_its_loss():
    clean, adversarial = logits(2)
    adversarial.requires_grad_()
    loss = oracle.attack_loss(clean, adversarial, TARGETS, beta=15.0, label_smoothing=0.5)
    (expected,) = torch.autograd.grad(loss, adversarial)
    soft = losses.dat_attack_targets(clean, TARGETS, beta=15.0, label_smoothing=0.5)
    gradient = losses.soft_target_ascent(soft)(adversarial.detach())
    torch.testing.assert_close(gradient * (1 + 15.0) / len(TARGETS), expected, rtol=1e-9, atol=1e-12)


def test_divergences_vanish_only_for_equal_predictions():
    one, other = logits(2)
    for divergence in (losses.kl_divergence, losses.js_divergence):
        assert divergence(one, one).abs() < 1e-8  # the clamp of m costs js 1e-7 of each vanishing probability
        assert divergence(one, other) > 0.1
    assert losses.js_divergence(one, other) == pytest.approx(float(losses.js_divergence(other, one)))
    assert losses.js_divergence(one, other) < 0.6932
