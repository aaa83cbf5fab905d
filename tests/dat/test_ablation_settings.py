"""Settings of DAT's ablations that make no sense together are refused in a sentence; those that recipes set are not."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import dat
from dat.cli import main
from dat.cli.train_flags import parse_train_flags
from dat.methods import METHODS, method_entry
from dat.methods.dat import DAT
from dat.methods.task import Task
from dat.training.build import build_model, build_step
from dat_engine.errors import UserError
from dat_engine.step.optimizer_settings import AdamWSettings

PGD_AT = {"training_loss": "pgd-at", "attack_loss": "cross-entropy"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lam_low": 0.6, "lam_high": 0.5}, "lam is drawn between lam_low and lam_high, .*; got 0.6 and 0.5"),
        ({"lam_high": 1.5}, "got 0 and 1.5"),
        ({"lam_high": 0.0}, "lam_high must be above 0 for anything to be mixed"),
        ({"lam_low": float("nan")}, "got nan and 1"),
        ({"mixed_image": False, "omega": 1.0}, "omega has no effect without the mixed image; leave it out"),
        ({"mixed_image": False, "branches": "shared"}, "branches has no effect without the mixed image"),
        ({"mixed_image": False, "lam_low": 1.0}, "lam_low has no effect without the mixed image"),
        ({"mixed_image": False, "adversarial": "single"}, "adversarial has no effect without the mixed image"),
        (
            {"amplitude_from": "other-image", "generator_update": "alternating"},
            "generator_update has no effect where amplitudes come from another image",
        ),
        ({"amplitude_from": "other-image", "amplitude_scale": "dataset"}, "amplitude_scale has no effect where"),
        ({"amplitude_from": "other-image", "attack_path_gradient": False}, "attack_path_gradient has no effect where"),
        ({"adversarial": "single"}, "adversarial single mixes the attacked x, .*; add mix_source augmented"),
        ({"attack_loss": "kl", "first_step": "clean"}, "attack_loss kl has no gradient at the image itself"),
        ({"attack_loss": "kl", "start_scale": 0.0}, "use first_step fresh and a start_scale above 0"),
        ({"first_step": "clean", "start": "uniform"}, "so there is no uniform start; leave one of them out"),
        ({"first_step": "clean", "start_scale": 0.1}, "start_scale has no effect with first_step clean"),
        ({"mixed_image": False, "mix_flip": True}, "mix_flip has no effect without the mixed image"),
        (
            {"mix_source": "augmented", "mix_flip": False},
            "mix_flip has no effect where the augmented image itself is mixed",
        ),
        (
            {"mixed_image": False, "generator_optimizer": AdamWSettings()},
            "generator_optimizer has no effect without the mixed image",
        ),
        (
            {"amplitude_from": "other-image", "generator_optimizer": AdamWSettings()},
            "generator_optimizer has no effect where amplitudes come from another image",
        ),
        ({"start": "uniform", "start_scale": 0.1}, "start_scale has no effect with a uniform start"),
        ({**PGD_AT, "beta": 6.0}, "beta has no effect with training_loss pgd-at and attack_loss cross-entropy"),
        ({**PGD_AT, "omega": 0.0, "attack_path_gradient": False}, "keep attack_path_gradient"),
    ],
)
def test_what_makes_no_sense_together_is_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        DAT(**changes)


def test_what_recipes_set_of_the_mixed_image_does_not_stand_in_its_way():
    for changes in ({"mixed_image": False}, {"mixed_image": False, "omega": 0.0}, {"amplitude_from": "other-image"}):
        assert replace(DAT(mix_padding=3, coarse_amplitude=32), **changes).mix_padding == 3


def test_a_step_without_the_mixed_image_takes_a_batch_of_one():
    smallest = method_entry("dat").smallest_batch
    assert smallest(DAT(mixed_image=False)) == 1
    assert smallest(DAT()) == smallest(DAT(amplitude_from="other-image")) == 2


def test_the_command_line_refuses_before_anything_is_written(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--dat.no-mixed-image", "--dat.lam-high", "0.5", "--run-dir", str(run)]
    assert main(["train", "digits-resnet", *words]) == 2
    assert "lam_high has no effect without the mixed image; leave it out" in capsys.readouterr().err
    assert not run.exists()


def test_a_network_without_batchnorm_loses_no_branch_that_was_not_asked_for():
    words = ["digits-resnet", "--model.name", "vit_lite_patch4", "--model.width", "8", "--dat.branches", "shared"]
    chosen, _ = parse_train_flags(words)
    method = METHODS["dat"].create(chosen.settings, Task(num_classes=10, image_shape=(1, 16, 16), epsilon=0.1))
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    data = (torch.rand(8, 1, 8, 8), torch.arange(8) % 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_step(chosen, build_model(chosen, 10, (1, 16, 16)), method)
        dat.Trainer(own, data, method=chosen.settings, epsilon=0.1, epochs=1, batch_size=8, device="cpu").fit()
