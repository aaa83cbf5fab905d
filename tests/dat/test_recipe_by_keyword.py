"""Recipes in Python: fields as keywords, dotted names and dictionaries; the same as the command line makes of its flags."""

import json

import pytest
import torch

import dat
from dat.cli.train_flags import parse_train_flags
from dat.methods import DAT
from dat.recipes.by_keyword import chosen_recipe, recipe
from dat.recipes.reading import read_recipe_file
from dat_engine.errors import UserError
from dat_engine.step.optimizer_settings import AdamWSettings


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (["--epochs", "30"], {"epochs": 30}),
        (["--model.width", "16", "--limit-train", "9"], {"model.width": 16, "limit_train": 9}),
        (["--model.width", "16"], {"model": {"width": 16}}),
        (["--dat.beta", "6", "--dat.steps", "3"], {"dat.beta": 6, "settings.steps": 3}),
        (["--epsilon", "4/255", "--dat.omega", "1"], {"epsilon": "4/255", "dat": {"omega": 1}}),
        (["--epochs", "30", "--schedule.milestones", "3"], {"epochs": 30, "schedule": {"milestones": [3]}}),
        (["--data.padding", "2"], {"data.padding": 2}),
        (["--data.padding", "2", "--dat.mix-padding", "1"], {"data": {"padding": 2}, "dat.mix_padding": 1}),
        (["--optimizer.kind", "adamw", "--optimizer.clip-norm", "1"], {"optimizer": {"kind": "adamw", "clip_norm": 1}}),
    ],
)
def test_fields_give_the_recipe_that_the_flags_give(tmp_path, flags, fields):
    by_flags, _ = parse_train_flags(["cifar10-resnet18", *flags])
    assert recipe("cifar10-resnet18", **fields) == by_flags
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"name": "cifar10-resnet18", **fields}))
    assert read_recipe_file(file)[0] == by_flags


def test_groups_and_methods_may_be_objects():
    made = recipe("cifar10-resnet18", DAT(beta=6), optimizer=AdamWSettings(learning_rate=1e-3))
    assert (made.method, made.settings, made.optimizer.learning_rate) == ("dat", DAT(beta=6), 1e-3)
    assert chosen_recipe(made, None, {"dat.beta": 2}).settings == DAT(beta=2)
    assert chosen_recipe(made, "dat", {}) is made
    with pytest.raises(
        UserError, match=r'one for dat, not trades; .*dat.recipe\("cifar10-resnet18", method="trades"\)'
    ):
        chosen_recipe(made, "trades", {})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"epoch": 3}, r"^a recipe has no field epoch; did you mean epochs\?"),
        ({"model.widht": 3}, r"^a recipe has no field model.widht; did you mean model.width\?"),
        ({"dat.betta": 3}, r"^a recipe has no field settings.betta; did you mean settings.beta\?"),
        ({"epochs": "many"}, r"^epochs must be a whole number; got 'many'"),
        ({"epochs": 0}, r"^epochs must be at least 1; got 0"),
        ({"model": "resnet18"}, r"^model must hold fields; got 'resnet18'"),
        ({"model": 3, "model.width": 4}, r"^model.width is given beside the whole of model"),
        ({"epsilon": 8}, r"^epsilon must lie in \(0, 1\].*8/255"),
    ],
)
def test_what_is_wrong_is_one_sentence(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe("cifar10-resnet18", **fields)


def test_a_name_that_is_no_field_may_have_meant_something_else():
    with pytest.raises(UserError, match=r"no field run_dri; did you mean run_dir\?"):
        chosen_recipe("digits-resnet", None, {"run_dri": "a"}, besides=("run_dir",))


@pytest.mark.parametrize("method", [DAT, 3, None.__class__])
def test_what_is_no_method_is_refused(method):
    with pytest.raises(UserError, match=r"give a method's name \(dat, .*or its settings \(DAT\(…\)"):
        recipe("digits-resnet", method)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dat.methods.SAR(spectrum="rows"), "sar.spectrum must be one of sample, batch; got 'rows'"),
        (dat.methods.DAT(training_loss="pgd_at"), "dat.training_loss must be one of trades, pgd-at; got 'pgd_at'"),
        (dat.methods.MART(steps=2.5), "mart.steps must be a whole number; got 2.5"),
    ],
)
def test_settings_made_in_python_are_held_to_their_fields_types(settings, sentence):
    with pytest.raises(UserError) as error:
        dat.recipe("digits-resnet", settings)
    assert str(error.value) == sentence
    with pytest.raises(UserError) as error:
        dat.Trainer(
            torch.nn.Identity(), (torch.rand(2, 1, 4, 4), torch.arange(2)), method=settings, epsilon=0.1, epochs=2
        )
    assert str(error.value) == sentence


def test_epochs_left_at_their_default_keep_their_share():
    assert dat.recipe("digits-resnet", dat.methods.SAR(), epochs=4).settings.start == 3
    assert dat.recipe("digits-resnet", dat.methods.SAR(weight=0.2)).settings.start == 75 * 25 / 100
    assert dat.recipe("digits-resnet", dat.methods.SAR(start=2), epochs=4).settings.start == 2
