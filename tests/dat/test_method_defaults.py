"""What a method's paper sets of a recipe, and settings that are counted in epochs: they keep their share of the run."""

import json
from dataclasses import replace

import pytest
import torch

import dat
from dat.cli import main
from dat.cli.profile_flags import parse_profile_flags
from dat.cli.train_flags import parse_train_flags
from dat.methods import DAJAT, METHODS, SAR
from dat.profiling.profile import _shared
from dat.recipes import RECIPES
from dat.recipes.by_keyword import recipe
from dat.recipes.reading import read_recipe_file, recipe_from_dict
from dat_engine.errors import UserError


def test_every_recipe_takes_every_method_and_is_read_back():
    for name in RECIPES:
        for method in METHODS:
            made = recipe(name, method)
            assert recipe_from_dict(json.loads(json.dumps(made.to_dict()))) == made
            METHODS[method].check_epochs(method, made.settings, made.epochs)


def test_optimizer_and_schedule_of_the_paper_stand_where_its_data_and_networks_do():
    mart = {
        name: recipe(name, "mart") for name in ("cifar10-resnet18", "cifar100-wrn34-10", "cifar10-vit", "digits-resnet")
    }
    rates = {name: (made.optimizer.learning_rate, made.settings.beta) for name, made in mart.items()}
    assert rates == {
        "cifar10-resnet18": (0.01, 5.0),
        "cifar100-wrn34-10": (0.1, 6.0),
        "cifar10-vit": (5e-4, 5.0),
        "digits-resnet": (0.3, 5.0),
    }
    assert mart["cifar10-resnet18"].optimizer.weight_decay == 3.5e-3 and mart["cifar10-resnet18"].epochs == 120
    dajat = recipe("cifar10-resnet18", "dajat")
    assert (dajat.schedule.kind, dajat.optimizer.learning_rate, dajat.epochs) == ("cosine", 0.2, 200)
    assert (dajat.awp.gamma, dajat.awp.start, dajat.ema.decay) == (0.005, 9.0, 0.9996)
    digits = recipe("digits-resnet", "dajat")
    assert (digits.schedule.kind, digits.awp.start, digits.ema.decay) == ("one-cycle", 9 / 8, None)
    assert recipe("cifar100-resnet18", "dajat").settings.beta == 9.0


@pytest.mark.parametrize(
    ("name", "epochs", "start", "ramp"),
    [
        ("cifar10-resnet18", (100, 200), 75, 200),
        ("digits-resnet", (25, 25), 18.75, 25),
        ("imagefolder", (90, 90), 67.5, 90),
    ],
)
def test_settings_counted_in_epochs_fit_the_recipes_length(name, epochs, start, ramp):
    sar, dajat = recipe(name, "sar"), recipe(name, "dajat")
    assert (sar.epochs, dajat.epochs) == epochs
    assert sar.settings == SAR(start=start) and dajat.settings == DAJAT(ramp_epochs=ramp)
    assert sar.swa.start == start


@pytest.mark.parametrize(
    ("flags", "fields", "start"),
    [
        (["--epochs", "30"], {"epochs": 30}, 22.5),
        (["--epochs", "30", "--sar.start", "10"], {"epochs": 30, "sar.start": 10}, 10),
        (["--epochs=30", "--sar.start=75"], {"epochs": 30, "settings": {"start": 75}}, 75),
        (["--sar.start", "10"], {"sar": {"start": 10}}, 10),
        (["--epochs", "30", "--sar.weight", "1"], {"epochs": 30, "sar.weight": 1}, 22.5),
    ],
)
def test_another_number_of_epochs_takes_them_along_unless_they_are_given(tmp_path, flags, fields, start):
    by_flags, _ = parse_train_flags(["cifar10-resnet18", "--method", "sar", *flags])
    assert by_flags.settings.start == start
    assert recipe("cifar10-resnet18", "sar", **fields) == by_flags
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"name": "cifar10-resnet18", "method": "sar", **fields}))
    assert read_recipe_file(file)[0] == by_flags


def test_settings_given_as_an_object_count_as_they_are():
    made = recipe("cifar10-resnet18", SAR(start=20), epochs=30)
    assert (made.settings, made.schedule.milestones) == (SAR(start=20), (22, 27))


@pytest.mark.parametrize(
    ("method", "setting", "epochs", "choose"),
    [
        ("sar", "start", 26, "a start below 25"),
        ("sar", "start", 25, "a start below 25"),
        ("dajat", "ramp-epochs", 26, "at most 25"),
    ],
)
def test_what_the_run_does_not_reach_is_one_sentence_and_nothing_is_written(
    method, setting, epochs, choose, tmp_path, capsys
):
    words = ["train", "digits-resnet", "--method", method, f"--{method}.{setting}", str(epochs)]
    assert main([*words, "--run-dir", str(tmp_path / "run")]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    name = f"{method}.{setting.replace('-', '_')}"
    assert f"{name} is {epochs} epochs and the run ends after 25; choose {choose}, or more epochs" in sentence
    assert not list(tmp_path.iterdir())


def test_a_trainer_of_ones_own_takes_the_share_of_its_epochs():
    def settings(method: object) -> object:
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        data = (torch.zeros(8, 1, 8, 8), torch.arange(8) % 3)
        return dat.Trainer(
            model, data, method=method, epsilon=0.1, epochs=4, batch_size=4, device="cpu", progress="silent"
        ).settings

    assert settings("sar") == SAR(start=3)
    assert settings(SAR(start=3.5)) == SAR(start=3.5)
    assert settings(SAR()) == SAR(start=3)
    with pytest.raises(UserError, match=r"sar.start is 4 epochs and the run ends after 4; choose a start below 4"):
        settings(SAR(start=4.0))


@pytest.fixture
def with_defaults(monkeypatch):
    """A method like PGD-AT whose paper sets more."""

    def made(**defaults) -> None:
        entry = replace(METHODS["pgd-at"], recipe_defaults=defaults, lengths={"tinyimagenet": (100, (75, 80))})
        monkeypatch.setitem(METHODS, "pgd-at", entry)

    return made


def test_defaults_counted_in_epochs_fit_the_recipes_length(with_defaults):
    with_defaults(**{"schedule.warmup_epochs": 20, "data.padding": 3})
    cifar, tiny, digits = (
        recipe(name, "pgd-at") for name in ("cifar10-resnet18", "tinyimagenet-resnet18", "digits-resnet")
    )
    assert (cifar.schedule.warmup_epochs, cifar.schedule.milestones) == (20, (100, 150))
    assert (tiny.schedule.warmup_epochs, tiny.schedule.milestones) == (10, (75, 80))
    assert (digits.schedule.warmup_epochs, digits.data.padding) == (0, 3)


def test_a_default_that_no_field_has_is_refused(with_defaults):
    with_defaults(**{"optimizer.lerning_rate": 0.1})
    with pytest.raises(UserError, match=r"^a recipe has no field optimizer.lerning_rate"):
        recipe("cifar10-resnet18", "pgd-at")


def test_a_profile_measures_every_method_by_its_own_recipe():
    words = ["cifar10-resnet18", "--methods", "pgd-at,mart,dajat,sar", "--epsilon", "0.02", "--model.width", "8"]
    recipes, _ = parse_profile_flags([*words, "--epochs", "30", "--sar.start", "10"])
    assert [made.optimizer.learning_rate for made in recipes] == [0.1, 0.01, 0.2, 0.1]
    assert [(made.epochs, made.epsilon, made.model.width) for made in recipes] == [(30, 0.02, 8)] * 4
    assert (recipes[2].settings.ramp_epochs, recipes[3].settings.start) == (30, 10)
    shared = _shared(recipes)
    assert shared["epsilon"] == 0.02 and shared["optimizer"]["mart"]["learning_rate"] == 0.01
    assert shared["method"] == ["pgd-at", "mart", "dajat", "sar"] and shared["settings"]["sar"]["start"] == 10


def test_a_flag_that_names_the_first_methods_default_counts_for_the_others_of_a_profile():
    words = [
        "cifar10-resnet18",
        "--methods",
        "dat,idbh,dajat",
        "--data.augmentation",
        "standard",
        "--engine.cudnn-benchmark",
    ]
    recipes, _ = parse_profile_flags([*words, "--optimizer.learning_rate=0.1", "--epochs", "150"])
    assert [made.data.augmentation for made in recipes] == ["standard"] * 3
    assert [(made.optimizer.learning_rate, made.epochs) for made in recipes] == [(0.1, 150)] * 3
    assert recipes[2].ema.decay == 0.9996  # what was not given stays the method's own
