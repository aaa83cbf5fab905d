"""Whole transcribed steps: gradients against finite differences, order and direction of the updates."""

import pytest
import torch

from tests.oracle import losses
from tests.oracle.ablations import ablated_step
from tests.oracle.method import (
    amplitude_mix,
    clip01,
    crop_and_flip,
    dat_step,
    pgd_at_step,
    trades_step,
    train_mode_logits,
)
from tests.oracle.networks import (
    generator_amplitude,
    random_generator_state,
    random_resnet_state,
    resnet_logits,
    split_state,
)

CLASSES, BATCH, SHAPE = 5, 4, (3, 8, 8)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def random(seed):
    return torch.Generator().manual_seed(seed)


def sample_images(seed=0, shape=SHAPE):
    return torch.rand((BATCH, *shape), generator=random(seed), dtype=torch.float64)


def step_arguments(**changes):
    """A complete set of arguments for `dat_step` on the smallest networks."""
    draw = random(11)
    normal = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64)  # noqa: E731
    arguments = {
        "model_state": random_resnet_state(3, CLASSES, seed=1),
        "generator_state": random_generator_state(CLASSES, SHAPE, seed=2, noise_size=6, widths=(8, 8, 8, 8)),
        "images": sample_images(3),
        "originals": sample_images(4),
        "targets": torch.tensor([0, 4, 2, 2]),
        "z": normal(BATCH, 6),
        "lam": torch.rand(BATCH, generator=draw, dtype=torch.float64),
        "start_noise": normal(BATCH, *SHAPE),
        "mix_start_noise": normal(BATCH, *SHAPE),
        "mix_offsets": torch.randint(-2, 3, (BATCH, 2), generator=draw),
        "mix_flip": torch.tensor([True, False, False, True]),
    }
    return {**arguments, **changes}


def dat_loss(arguments, result, psi, *, moves_with_mix):
    """L_DAT as a function of psi alone: theta, x' and (but for the mask of the last step) x̂' held fixed."""
    theta, running = split_state(arguments["model_state"])
    if arguments["generator_update"] == "alternating":
        theta, running = result["model_after"], result["running_after_theta"]
    state = {**arguments["generator_state"], **psi}
    amplitude = generator_amplitude(state, arguments["z"], result["conditioning_logits"], SHAPE)
    mixed = amplitude_mix(images=arguments["originals"], amplitude=amplitude, lam=arguments["lam"])
    view = crop_and_flip(images=mixed, offsets=arguments["mix_offsets"], flip=arguments["mix_flip"])
    mixed_adversarial = result["mixed_adversarial"]
    if moves_with_mix:
        mixed_adversarial = mixed_adversarial + result["path_mask"] * (view - result["mixed_view"])
    groups = {
        "clean": arguments["images"],
        "adversarial": result["adversarial"],
        "mixed": view,
        "mixed_adversarial": mixed_adversarial,
    }
    logits, _ = train_mode_logits(theta, running, groups)
    return losses.dat_terms(logits, arguments["targets"], beta=15.0, omega=2.0, label_smoothing=0.5)["loss"].item()


@pytest.mark.parametrize("update", ["joint", "alternating"])
@pytest.mark.parametrize("path", [True, False])
def test_psi_gradient_equals_finite_differences(update, path):
    # four or more steps of 2/255 are what it takes to reach the box of 8/255
    arguments = step_arguments(generator_update=update, attack_path_gradient=path, learning_rate=0.01)
    result = dat_step(**arguments)
    assert bool(result["path_mask"].any())
    psi, _ = split_state(arguments["generator_state"])
    difference = 1e-5
    for name in ("model.0.weight", "model.6.weight", "model.9.bias", "model.11.weight", "model.11.bias"):
        direction = result["generator_gradients"][name].sign()
        ends = [
            dat_loss(arguments, result, {**psi, name: psi[name] + sign * difference * direction}, moves_with_mix=path)
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * difference)
        slope = float((result["generator_gradients"][name] * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-4), name


def test_theta_gradient_equals_finite_differences():
    arguments = step_arguments(generator_update="joint")
    result = dat_step(**arguments)
    theta, running = split_state(arguments["model_state"])
    groups = {
        "clean": arguments["images"],
        "adversarial": result["adversarial"],
        "mixed": result["mixed_view"],
        "mixed_adversarial": result["mixed_adversarial"],
    }
    for name in ("conv1.weight", "layer2.0.bn1_auto.weight", "layer3.0.shortcut_bn.0.bias", "linear.bias"):
        direction = result["model_gradients"][name].sign()
        ends = []
        for sign in (1, -1):
            logits, _ = train_mode_logits({**theta, name: theta[name] + sign * 1e-6 * direction}, running, groups)
            terms = losses.dat_terms(logits, arguments["targets"], beta=15.0, omega=2.0, label_smoothing=0.5)
            ends.append(terms["loss"].item())
        slope = float((result["model_gradients"][name] * direction).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4), name


def test_dat_step_updates_statistics_in_order_once_per_forward():
    arguments = step_arguments()
    result = dat_step(**arguments)
    _, running = split_state(arguments["model_state"])
    theta, _ = split_state(arguments["model_state"])
    for batch, branch in (
        (arguments["images"], "base"),
        (result["adversarial"], "base"),
        (result["mixed_view"], "mix"),
        (result["mixed_adversarial"], "mix"),
    ):
        _, running = resnet_logits({**theta, **running}, batch, branch, training=True)
    close(result["running_after_theta"], running)
    assert int(result["running_after"]["bn1.num_batches_tracked"]) == 7 + 4
    assert (
        int(dat_step(**step_arguments(generator_update="joint"))["running_after"]["bn1_auto.num_batches_tracked"]) == 9
    )


def test_dat_step_moves_theta_down_and_psi_up():
    arguments = step_arguments(generator_update="joint", learning_rate=1e-3, weight_decay=0.0)
    result = dat_step(**arguments)
    psi, _ = split_state(arguments["generator_state"])
    theta, _ = split_state(arguments["model_state"])
    close(result["model_after"], {name: theta[name] - 1e-3 * result["model_gradients"][name] for name in theta})
    close(result["generator_after"], {name: psi[name] + 1e-3 * result["generator_gradients"][name] for name in psi})


def test_dat_step_perturbs_within_the_box():
    arguments = step_arguments()
    result = dat_step(**arguments)
    for view, adversarial in (
        (arguments["images"], result["adversarial"]),
        (result["mixed_view"], result["mixed_adversarial"]),
    ):
        assert float((adversarial - view).abs().max()) <= 8 / 255 + 1e-12
        assert float((adversarial - view).abs().max()) > 7 / 255
        assert torch.equal(adversarial, clip01(adversarial))


def test_dat_step_modes_agree_before_the_generator_moves():
    joint, alternating = (dat_step(**step_arguments(generator_update=mode)) for mode in ("joint", "alternating"))
    close(joint["model_after"], alternating["model_after"])
    assert torch.equal(joint["mixed_adversarial"], alternating["mixed_adversarial"])
    assert float(joint["generator_loss"]) == float(joint["loss"])
    assert float(alternating["generator_loss"]) != float(joint["loss"])


def test_an_ablated_step_with_nothing_left_out_is_the_whole_one():
    arguments = step_arguments()
    noise = {name: 0.001 * arguments[name] for name in ("start_noise", "mix_start_noise")}
    ablated, whole = ablated_step(**{**arguments, **noise}), dat_step(**step_arguments(generator_update="joint"))
    close(ablated["loss"], whole["loss"])
    for name in ("model_after", "running_after", "generator_after"):
        close(ablated[name], whole[name])


def test_dat_step_refuses_an_unknown_generator_update():
    with pytest.raises(ValueError, match=r"'both'.*'joint' or 'alternating'"):
        dat_step(**step_arguments(generator_update="both"))


def test_plain_methods_descend_on_branch_base_only():
    state = random_resnet_state(3, CLASSES, seed=1)
    images, targets = sample_images(3), torch.tensor([0, 4, 2, 2])
    noise = 2 * sample_images(9) - 1
    for step, tracked in ((trades_step, 9), (pgd_at_step, 8)):
        result = step(model_state=state, images=images, targets=targets, start_noise=noise, steps=2)
        assert int(result["running_after"]["bn1.num_batches_tracked"]) == tracked
        assert int(result["running_after"]["bn1_auto.num_batches_tracked"]) == 7
        assert torch.equal(result["model_after"]["bn1_auto.weight"], state["bn1_auto.weight"])
        assert not torch.equal(result["model_after"]["bn1.weight"], state["bn1.weight"])
        attacked, _ = resnet_logits(state, result["adversarial"], "base", training=False)
        started, _ = resnet_logits(state, clip01(result["start"]), "base", training=False)
        clean, _ = resnet_logits(state, images, "base", training=False)
        if step is trades_step:
            assert losses.kl_divergence(clean, attacked) > losses.kl_divergence(clean, started)
        else:
            assert losses.cross_entropy(attacked, targets) > losses.cross_entropy(started, targets)
