"""Perturbed and averaged weights as fields of a recipe: flags, Python, checkpoints, evaluation."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import dat
from dat.cli import main
from dat.cli.train_flags import parse_train_flags
from dat.methods.task import Task
from dat.recipes import AWPSettings, EMASettings, SWASettings, with_epochs
from dat.training.build import build_step
from dat.training.trained import load_trained
from dat_engine.run.checkpoint import load, save
from tests.dat.test_trainer import IMAGES, LABELS, PIXELS, SETTING, network

TINY = [
    *("--epochs", "2", "--limit-train", "48", "--batch-size", "16", "--model.width", "4", "--data.validation", "10"),
    *("--evaluation.attacks", "natural", "--evaluation.limit", "10", "--device", "cpu", "--progress", "silent"),
    *("--dat.steps", "1"),
]
WEIGHTS = ["--awp.gamma", "0.01", "--ema.decay", "0.8", "--swa.start", "1", "--ema.bn-batches", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", "digits-resnet", *TINY, *WEIGHTS, "--run-dir", str(path)]) == 0
    return path


def newest(run):
    return run / "checkpoints" / "step-00000006.safetensors"


def same(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def test_a_run_says_which_weights_it_evaluated(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row["evaluated"] for row in rows if "evaluated" in row]
    assert evaluated == ["ema", "swa"]
    best = [row["evaluated"] for row in rows if row.get("best")][-1]
    assert json.loads((run / "summary.json").read_text())["evaluated"] == best
    assert load_trained(run, torch.device("cpu")).weights == best


def test_weights_are_chosen_by_name(run, capsys):
    models = {name: dat.load_model(newest(run), weights=name) for name in ("raw", "ema", "swa")}
    assert same(dat.load_model(newest(run)), models["swa"])
    assert not same(models["raw"], models["swa"]) and not same(models["ema"], models["swa"])
    with pytest.raises(dat.UserError, match="no weights is called 'ewa'; did you mean"):
        dat.load_model(newest(run), weights="ewa")
    words = ["evaluate", str(newest(run)), "--attacks", "natural", "--limit", "10", "--device", "cpu", "--json"]
    capsys.readouterr()
    for name in ("raw", "ema", None):
        assert main([*words, *(["--weights", name] if name else [])]) == 0
        assert json.loads(capsys.readouterr().out)["evaluated"] == (name or "swa")


def test_a_best_checkpoint_from_before_the_average_leads_to_the_newest(run, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    before, best = load(newest(path)), path / "checkpoints" / "best.safetensors"
    before["training"]["averages"]["swa"]["ready"].fill_(False)  # as at the end of an epoch before swa.start
    save(best, before)
    capsys.readouterr()
    assert main(["evaluate", str(path), "--weights", "swa", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert (
        f"{best} was selected before there were swa weights; the run's newest checkpoint has them, give {newest(path)}"
        in said
    )

    (path / "summary.json").unlink()
    assert main(["train", "--resume", "--run-dir", str(path), "--progress", "plain"]) == 0
    said = capsys.readouterr().out
    assert (
        "the best checkpoint has ema weights and not yet the average that swa.start asks for; "
        f"`dat evaluate {newest(path)}` evaluates it"
    ) in said
    assert json.loads((path / "summary.json").read_text())["evaluated"] == "ema"


def test_a_run_without_averages_says_so(tmp_path, capsys):
    path = tmp_path / "run"
    words = [*TINY[: TINY.index("--dat.steps")], "--method", "plain", "--max-steps", "1"]
    assert main(["train", "digits-resnet", *words, "--run-dir", str(path)]) == 0
    with pytest.raises(dat.UserError, match=r"holds no weights called ema but raw; averages are kept by --ema\.decay"):
        dat.load_model(path, weights="ema")
    assert json.loads((path / "summary.json").read_text())["evaluated"] == "raw"


def test_an_interrupted_run_goes_on_with_its_averages(run, tmp_path):
    path = tmp_path / "parts"
    words = ["train", "digits-resnet", *TINY, *WEIGHTS, "--run-dir", str(path)]
    assert main([*words, "--max-steps", "4"]) == 0
    assert main(["train", "--resume", "--run-dir", str(path)]) == 0
    for name in ("raw", "ema", "swa"):
        one, other = (dat.load_model(newest(folder), weights=name) for folder in (run, path))
        assert same(one, other), name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--swa.start", "2"], "swa.start is 2 and the run has 2 epochs, so no weights would be averaged"),
        (["--awp.gamma", "0.01", "--awp.start", "5"], "awp.start is 5 and the run has 2 epochs"),
        (["--ema.decay", "1"], "ema.decay must lie in (0, 1), 0.9996 for instance; got 1"),
        (["--awp.gamma", "-1"], "awp.gamma must be positive and finite"),
        (["--awp.gamma", "0"], "awp.gamma must be positive and finite, 0.005 for instance, or be left out; got 0"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_nothing_is_written(words, sentence, tmp_path, capsys):
    assert main(["train", "digits-resnet", *TINY, *words, "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_starts_keep_their_share_of_the_run_unless_they_are_given(tmp_path):
    base = replace(dat.recipe("cifar10-resnet18"), awp=AWPSettings(gamma=0.005, start=15), swa=SWASettings(start=120.0))
    shorter = with_epochs(base, 50)
    assert (shorter.awp.start, shorter.swa.start, shorter.schedule.milestones) == (5.0, 40.0, (33, 37))
    assert dat.recipe("digits-resnet", epochs=5, swa=SWASettings(start=4)).swa.start == 4
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"recipe": base.to_dict()}))
    recipe, _ = parse_train_flags(["--config", str(file), "--epochs", "50"])
    assert recipe == shorter
    recipe, _ = parse_train_flags(["--config", str(file), "--epochs", "50", "--swa.start", "45"])
    assert (recipe.awp.start, recipe.swa.start) == (5.0, 45.0)
    file.write_text(json.dumps({**base.to_dict(), "epochs": 50}))
    recipe, _ = parse_train_flags(["--config", str(file)])
    assert (recipe.awp.start, recipe.swa.start) == (15.0, 120.0)  # the file names all of its fields itself


def test_perturbation_that_a_method_brings_is_switched_off():
    off = dat.recipe("cifar10-resnet18", method="dajat", **{"awp.gamma": None})
    by_flags, _ = parse_train_flags(["cifar10-resnet18", "--method", "dajat", "--awp.gamma", "None"])
    assert off.awp.gamma is None and by_flags == off


def test_a_step_is_built_as_the_recipe_says():
    recipe = dat.recipe("digits-resnet", "pgd-at", **{"awp.gamma": 0.02, "ema.decay": 0.9, "swa.start": 1})
    model = dat.models.build("resnet8", num_classes=10, width=4, in_channels=1)
    task = Task(num_classes=10, image_shape=(1, 16, 16), epsilon=0.1)
    method = dat.methods.METHODS["pgd-at"].create(recipe.settings, task)
    step = build_step(recipe, model, method)
    assert step._weight_perturbation.gamma == 0.02 and set(step.averages.by_name) == {"ema", "swa"}
    plain = build_step(dat.recipe("digits-resnet", "pgd-at"), model, method)
    assert plain._weight_perturbation is None and not plain.averages.by_name


def test_a_trainer_of_ones_own_network_leaves_the_average_in_it():
    def fitted(**options):
        model = network()
        setting = {**SETTING, "epochs": 2, "method": "plain", **options}
        fit = dat.Trainer(model, (PIXELS, LABELS), **setting).fit()
        return model, [row["evaluated"] for row in fit.history], fit

    averages = {"ema": EMASettings(decay=0.8), "awp": AWPSettings(gamma=0.01)}
    plain, names, _ = fitted(awp=averages["awp"])
    assert names == ["raw", "raw"]
    averaged, names, _ = fitted(**averages)
    assert names == ["ema", "ema"] and not same(plain, averaged)
    chosen, names, fit = fitted(**averages, swa=SWASettings(start=1), validation=(IMAGES, LABELS))
    assert names == ["ema", "swa"] and not same(chosen, plain)
    again = dat.evaluate(chosen, (IMAGES, LABELS), ["natural", "pgd20"], epsilon=0.1)
    assert dict(again) == fit.accuracy
    with pytest.raises(dat.UserError, match=r"swa.start is 2 and the run has 2 epochs"):
        fitted(swa=SWASettings(start=2))
    with pytest.raises(dat.UserError, match="ema is a float; give settings"):
        fitted(ema=0.9)
