"""The command line before anything is trained: help, versions, defects, warnings, and how little it imports."""

import json
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from dat.cli import main
from dat.cli.evaluate_flags import parse_evaluate_flags
from dat.cli.main import COMMANDS
from dat.cli.train_flags import parse_train_flags
from dat.recipes.mapping_file import read_mapping
from dat_engine.data import DataError
from dat_engine.errors import UserError
from dat_engine.run.checkpoint import CheckpointError


@pytest.mark.parametrize(
    "words",
    [["--version"], ["--help"], ["recipes"], ["train", "--help"], ["profile", "--help"], ["evaluate", "--help"]],
)
def test_what_needs_no_torch_imports_none(words):
    code = (
        "import sys; from dat.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'torchvision', 'numpy'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_one_of_many_processes_ends_without_taking_the_interpreter_apart():
    code = (
        "import atexit, sys, torch; atexit.register(print, 'shut down'); sys.argv[1:] = ['recipes']; "
        "from dat.cli import program; program()"
    )
    environment = {**os.environ, "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "tinyimagenet-resnet18" in done.stdout and "shut down" not in done.stdout


def test_names_of_recipes_are_whole_in_a_pipe(capsys):
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert "tinyimagenet-resnet18  tinyimagenet  resnet18" in printed and "…" not in printed and "8/255" in printed


def test_help_lists_recipes_and_common_flags(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "cifar10-wrn34-10" in text and "--data-root" in text and "--resume --run-dir" in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dat-engine ")


def test_every_number_may_be_a_fraction(capsys):
    recipe, _ = parse_train_flags(["cifar10-resnet18", "--epsilon", "4/255", "--dat.step-size", "2/255"])
    assert (recipe.epsilon, recipe.settings.step_size) == (4 / 255, 2 / 255)
    assert parse_evaluate_flags(["run", "--epsilon", "8/255"]).epsilon == 8 / 255
    assert main(["train", "cifar10-resnet18", "--epsilon", "8/0"]) == 2
    assert "'8/0' is not a number; write it like 0.031, 1e-3 or 8/255" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("bad shape"), RuntimeError("size mismatch"), KeyError("x")])
def test_a_defect_shows_its_traceback_and_exits_1(monkeypatch, capsys, error):
    def fails(_):
        raise error

    monkeypatch.setitem(COMMANDS, "recipes", (fails, ""))
    assert main(["recipes"]) == 1
    written = capsys.readouterr().err
    assert "Traceback" in written and type(error).__name__ in written
    assert written.strip().splitlines()[-1].startswith("dat recipes: this is a defect of dat-engine")


def test_the_projects_errors_are_the_users_to_mend():
    assert issubclass(UserError, ValueError) and issubclass(CheckpointError, UserError)
    assert issubclass(DataError, UserError)


def test_warnings_come_in_the_commands_voice_and_once(monkeypatch, capsys):
    def warns(_):
        for line in range(3):
            warnings.warn_explicit("the disk\nis slow", UserWarning, "somewhere.py", line)
        return 0

    monkeypatch.setitem(COMMANDS, "recipes", (warns, ""))
    assert main(["recipes"]) == 0
    assert capsys.readouterr().err == "dat recipes: warning: the disk is slow\n"


def test_wrong_names_are_refused_before_data_are_looked_for(tmp_path, monkeypatch, capsys):
    import dat.training.train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dat.training.train, "load_training_data", lambda *_: pytest.fail("it began to read"))
    for words, sentence in (
        (["--model.name", "resnet81"], "no model is called 'resnet81'; did you mean"),
        (["--dat.steps", "0"], "steps must be at least 1"),
        (["--dat.coarse-amplitude", "99"], "coarse_size must lie in 2..16"),
        (["--model.name", "resnet50"], "resnet50 takes images of 3 channels; got 1"),
        (["--engine.execution", "graphed"], "--engine.execution graphed is one CUDA graph per step"),
        (["--engine.fused-epilogues", "--engine.branching", "grouped"], "use branching folded or auto"),
    ):
        assert main(["train", "digits-resnet", "--device", "cpu", *words]) == 2
        assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_fused_epilogues_have_auto_fold_on_a_gpu_too():
    from torch import device

    from dat.training.build import branching

    found = [
        branching(parse_train_flags(["digits-resnet", *words])[0], device(kind))
        for kind in ("cpu", "cuda")
        for words in ([], ["--engine.fused-epilogues"])
    ]
    assert found == ["folded", "folded", "grouped", "folded"]


def recipe_file(folder: Path, text: str) -> list[str]:
    (folder / "recipe.yaml").write_text("name: digits-resnet\n" + text)
    return ["--config", str(folder / "recipe.yaml")]


def test_a_recipe_file_and_flags_over_it(tmp_path):
    words = recipe_file(
        tmp_path, "method: pgd-at\nepsilon: 26/255\nsettings: {steps: 3}\noptimizer: {learning_rate: 1e-1}\n"
    )
    recipe, _ = parse_train_flags([*words, "--optimizer.momentum", "0.5"])
    assert (recipe.method, recipe.epsilon, recipe.settings.steps) == ("pgd-at", 26 / 255, 3)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.momentum, recipe.batch_size) == (0.1, 0.5, 64)


def test_a_config_of_another_run_gives_its_recipe(tmp_path):
    first, _ = parse_train_flags(["cifar10-resnet18", "--method", "trades", "--trades.beta", "5", "--epochs", "20"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"recipe": first.to_dict(), "run": {"data_root": "/elsewhere"}, "versions": {}}))
    again, options = parse_train_flags(["--config", str(path)])
    assert again == first and str(options.data_root) == "/elsewhere"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: {widht: 4}", "a recipe has no field model.widht; did you mean model.width?"),
        ("epoch: 3", "a recipe has no field epoch; did you mean epochs?"),
        ("settings: {beat: 3}", "a recipe has no field settings.beat; did you mean settings.beta?"),
        ("epochs: 1.5", "epochs must be a whole number; got 1.5"),
        ("data: {loader: disk}", "data.loader must be one of auto, resident, dali, torchvision; got 'disk'"),
        ("data: {flip: 1}", "data.flip must be true or false; got 1"),
        ("epochs: 0", "epochs must be at least 1; got 0"),
        ("model: resnet8", "model must hold fields; got 'resnet8'"),
        ("epochs: [", "is not YAML"),
        ("epochs: 2\nepochs: 3", "gives epochs twice, in lines"),
    ],
)
def test_a_wrong_recipe_file_is_one_sentence(tmp_path, capsys, text, sentence):
    assert main(["train", *recipe_file(tmp_path, text)]) == 2
    written = capsys.readouterr().err
    assert sentence in written and len(written.strip().splitlines()) == 1


def test_a_name_given_twice_is_refused_wherever_it_stands(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text('{"name": "digits-resnet", "data": {"flip": true, "flip": false}}')
    with pytest.raises(UserError, match=r"recipe\.json gives flip twice; give it once"):
        read_mapping(file, kind="recipe", give="one")
    file = tmp_path / "recipe.yaml"
    file.write_text("{a: &a {x: 1}, b: &b {<<: *a, x: 2}, c: [{<<: *b, x: 3}, *a]}")  # a merged name is a default
    assert read_mapping(file, kind="recipe", give="one") == {"a": {"x": 1}, "b": {"x": 2}, "c": [{"x": 3}, {"x": 1}]}
    file.write_text('c: [{x: 1, "x": 2}]')
    with pytest.raises(UserError, match=r"gives x twice, in line 1"):
        read_mapping(file, kind="recipe", give="one")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_to_a_full_disk_is_one_sentence(buffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dat", "recipes"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONUNBUFFERED": buffered},
        )
    assert done.returncode == 1
    assert done.stderr == "dat recipes: cannot write the output: No space left on device; free space where it goes\n"


def test_output_that_the_shell_has_closed_is_no_error():
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -m dat recipes >&-"], stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_word_for_a_whole_number_is_refused_in_plain_words(capsys):
    assert main(["train", "digits-resnet", "--epochs", "three"]) == 2
    assert capsys.readouterr().err == "dat train: --epochs: 'three' is not a whole number; write it like 30\n"
