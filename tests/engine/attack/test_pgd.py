from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dat_engine.attack import pgd
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.pgd import AttackSettings, along_projection, draw_start, per_image, pgd_attack
from dat_engine.errors import UserError
from dat_kernels import pgd_step
from dat_kernels.pgd_step import philox


def linear_view(size: int = 4, device: torch.device | str = "cpu") -> tuple[nn.Module, AttackModel]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 5)).double().to(device)
    return model, AttackModel(model, dtype=torch.float64)


def batch(size: int = 4) -> torch.Tensor:
    return torch.rand(6, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ascend_first_logit(logits: torch.Tensor) -> torch.Tensor:
    gradient = torch.zeros_like(logits)
    gradient[:, 0] = 1.0
    return gradient


def test_a_linear_model_is_attacked_to_the_exact_maximum(device):
    model, attack_model = linear_view(device=device)
    images = batch().to(device)
    settings = AttackSettings(epsilon=0.1, step_size=0.03, steps=10)
    start = draw_start(torch.Generator(device).manual_seed(2))
    adversarial = pgd_attack(attack_model, images, ascend_first_logit, settings, start)
    best = (images + 0.1 * model[1].weight[0].sign().view(3, 4, 4)).clamp(0, 1)
    torch.testing.assert_close(adversarial, best.detach())


@pytest.mark.parametrize("start", ["gaussian", "uniform"])
def test_stays_in_the_box_and_in_range(start, device):
    _, attack_model = linear_view(device=device)
    images = batch().to(device)
    settings = AttackSettings(epsilon=8 / 255, step_size=0.02, steps=3, start=start)
    seed = draw_start(torch.Generator(device).manual_seed(2))
    adversarial = pgd_attack(attack_model, images, ascend_first_logit, settings, seed)
    assert (adversarial - images).abs().max() <= 8 / 255 + 1e-12
    assert adversarial.min() >= 0 and adversarial.max() <= 1


def started(settings: AttackSettings, images: torch.Tensor) -> torch.Tensor:
    """The start itself, as noise: a step of the size of rounding leaves it where it is."""
    _, attack_model = linear_view(device=images.device)
    one_step = replace(settings, steps=1, step_size=1e-30)
    seed = draw_start(torch.Generator(images.device).manual_seed(2))
    return pgd_attack(attack_model, images, ascend_first_logit, one_step, seed) - images


def test_uniform_start_fills_the_box(device):
    noise = started(AttackSettings(epsilon=0.2, start="uniform"), torch.full((1000, 3, 4, 4), 0.5, device=device))
    assert noise.min() < -0.199 and noise.max() > 0.199 and noise.abs().max() <= 0.2
    assert noise.mean().abs() < 0.005


def test_gaussian_start_has_the_asked_deviation(device):
    settings = AttackSettings(epsilon=0.2, start="gaussian", start_scale=0.001)
    noise = started(settings, torch.full((1000, 3, 4, 4), 0.5, device=device))
    assert noise.std().item() == pytest.approx(0.001, rel=0.02)


def test_seeds_drawn_one_after_the_other_differ_and_come_back_with_the_generator(device):
    generator = torch.Generator(device).manual_seed(2)
    state = generator.get_state()
    seeds = [int(draw_start(generator)) for _ in range(20)]
    assert len(set(seeds)) == 20 and max(seeds) > 2**60
    generator.set_state(state)
    assert [int(draw_start(generator)) for _ in range(20)] == seeds


@pytest.mark.parametrize(
    "epsilon", [0.1, torch.full((), 0.1), torch.linspace(0.05, 0.1, 6)], ids=["float", "scalar", "each"]
)
def test_a_seed_and_the_perturbation_it_stands_for_are_one_attack(epsilon):
    _, attack_model = linear_view()
    images, seed = batch().float(), draw_start(torch.Generator().manual_seed(2))
    settings = AttackSettings(epsilon=epsilon, step_size=0.03, steps=2, start="uniform")
    noise = per_image(torch.as_tensor(epsilon)) * philox.uniform(images.numel(), seed, 0, seed.device).view(
        images.shape
    )
    by_seed, by_noise = (
        pgd_attack(attack_model, images, ascend_first_logit, settings, start) for start in (seed, noise)
    )
    torch.testing.assert_close(by_seed, by_noise, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "start",
    [
        5,
        torch.tensor(5, dtype=torch.int32),
        torch.tensor(0.5),
        torch.arange(6),
        torch.zeros(6, 3, 4, 4, dtype=torch.int64),
        torch.zeros(6, 3, 4, 4, dtype=torch.uint8),
        torch.zeros(6, 3, 4, 4, dtype=torch.float64),
        torch.zeros(1, 3, 4, 4),
        torch.zeros(2, 6, 3, 4, 4),
    ],
    ids=["int", "int32", "scalar", "seeds", "int64", "uint8", "wider", "spread", "more"],
)
def test_a_start_that_is_neither_seed_nor_perturbation_is_refused(start):
    _, attack_model = linear_view()
    with pytest.raises(UserError, match=r"^start must be the seed that draw_start\(generator\) gives.*; got "):
        pgd_attack(attack_model, batch().float(), ascend_first_logit, AttackSettings(), start)


def test_a_perturbation_is_a_constant():
    _, attack_model = linear_view()
    images, settings = batch(), AttackSettings(epsilon=0.1, step_size=0.03, steps=1)
    start = torch.full_like(images, 0.01)
    plain, learnt = (
        pgd_attack(attack_model, images, ascend_first_logit, settings, given)
        for given in (start, start.clone().requires_grad_())
    )
    assert torch.equal(plain, learnt) and not learnt.requires_grad


def test_path_gradient_is_one_where_a_bound_is_active(device):
    _, attack_model = linear_view(device=device)
    images = batch().to(device).requires_grad_()
    settings = AttackSettings(epsilon=0.1, step_size=0.03, steps=10)
    seed = draw_start(torch.Generator(device).manual_seed(2))
    active = torch.empty(images.shape, dtype=torch.bool, device=device)
    plain = pgd_attack(attack_model, images, ascend_first_logit, settings, seed, active=active)
    adversarial = along_projection(images, plain, active)
    assert torch.equal(adversarial.detach(), plain) and not plain.requires_grad
    (gradient,) = torch.autograd.grad(adversarial.sum(), images)
    clipped = (adversarial == 0) | (adversarial == 1)
    assert torch.equal(gradient, (~clipped).double())
    assert 0 < clipped.sum() < clipped.numel()

    short = AttackSettings(epsilon=0.1, step_size=0.001, steps=1, start="gaussian")
    pgd_attack(attack_model, images, ascend_first_logit, short, None, active=active)
    assert not active.any()  # no bound of the box was reached


class Copies(TorchDispatchMode):
    """Counts images-sized copies and casts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        copying = function.overloadpacket in (torch.ops.aten.copy_, torch.ops.aten._to_copy, torch.ops.aten.clone)
        self.count += copying and result.ndim == 4
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_further_steps_copy_nothing_and_move_along_one_order_of_memory(dtype, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    attack_model = AttackModel(model, dtype=dtype, memory_format=torch.channels_last)
    images, given = batch(8).float(), []
    attack_model.verify(images)

    def recorded(adversarial, gradient, images, **options):
        written = [options["out"], options["model_input"], options["active"]]
        given.append([tensor.stride() for tensor in (adversarial, gradient, images, *written) if tensor is not None])
        return pgd_step(adversarial, gradient, images, **options)

    monkeypatch.setattr(pgd, "pgd_step", recorded)
    counts = []
    for steps in (1, 4):
        settings = AttackSettings(epsilon=0.1, step_size=0.03, steps=steps)
        active = torch.empty_like(images, dtype=torch.bool, memory_format=torch.channels_last)
        with Copies() as copies:
            pgd_attack(attack_model, images, ascend_first_logit, settings, torch.zeros_like(images), active=active)
        counts.append(copies.count)
    assert counts[0] == counts[1] > 0
    assert {stride for strides in given for stride in strides} == {(192, 1, 24, 3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, r"epsilon must lie in \(0, 1\]"),
        ({"epsilon": 8.0}, r"epsilon must lie in \(0, 1\]"),
        ({"step_size": 0.0}, "step_size must be positive and finite"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"start": "normal"}, "start must be gaussian or uniform; got 'normal'"),
        ({"start_scale": -1.0}, "start_scale must be finite and not negative"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        AttackSettings(**changes)
