"""`dat.train`, `dat.load_model` and the run that they give: the command's result, and a process left as it was found."""

import json
import signal
import threading
import warnings

import pytest
import torch

import dat
from dat.cli import main

TINY = {
    "epochs": 2,
    "limit_train": 48,
    "batch_size": 16,
    "model.width": 4,
    "data.validation": 20,
    "evaluation": {"attacks": "natural,pgd20", "limit": 20},
    "engine.execution": "eager",
}
QUIET = {"device": "cpu", "progress": "silent"}
FLAGS = (
    "--epochs 2 --limit-train 48 --batch-size 16 --model.width 4 --data.validation 20 --evaluation.attacks natural,pgd20 "
    "--evaluation.limit 20 --engine.execution eager --device cpu --progress silent"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dat.Run:
    return dat.train("digits-resnet", run_dir=tmp_path_factory.mktemp("runs") / "a", **QUIET, **TINY)


def test_it_is_the_command_with_the_same_result(run, tmp_path):
    path = tmp_path / "b"
    assert main(["train", "digits-resnet", *FLAGS.split(), "--run-dir", str(path)]) == 0
    assert json.loads((path / "summary.json").read_text())["accuracy"] == run.accuracy
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (run.path, path))
    assert ours["recipe"] == theirs["recipe"] == run.recipe.to_dict() and ours["run"] == theirs["run"]


def test_a_run_says_what_it_reached(run):
    assert set(run.accuracy) == {"natural", "pgd20"} and 0 <= run.accuracy["pgd20"] <= 100
    assert [row["epoch"] for row in run.history] == [1, 2] and "validation_pgd20" in run.history[-1]
    assert run.ending == "finished" and run.summary["accuracy"] == run.accuracy
    assert repr(run) == (
        f"<Run {run.path}: digits-resnet dat, finished: natural {run.accuracy['natural']:.1f} %, "
        f"PGD-20 {run.accuracy['pgd20']:.1f} %>"
    )


def test_the_model_of_a_run_is_the_one_that_was_evaluated(run):
    model = dat.load_model(str(run.path))
    assert not model.training and run.model is run.model
    images = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(images), run.model(images)) and model(images).shape == (3, 10)
    from dat_engine.data import load, take

    test = take(load("digits", root="data", split="test", download=False), 20, seed=0)
    again = dat.evaluate(model, test, ["natural", "pgd20"], epsilon=run.recipe.epsilon)
    assert dict(again) == run.accuracy


def test_a_time_limit_is_counted_from_the_call_and_resume_goes_on(run, tmp_path):
    path = tmp_path / "limited"
    stopped = dat.train("digits-resnet", run_dir=path, time_limit=1e-6, **QUIET, **TINY)
    assert (stopped.ending, stopped.accuracy, stopped.summary) == ("time limit", {}, None)
    assert repr(stopped).endswith("digits-resnet dat, time limit>")
    resumed = dat.train(resume=True, run_dir=path, time_limit="1h")
    assert resumed.ending == "finished" and resumed.accuracy == run.accuracy
    assert [row["epoch_loss"] for row in resumed.history] == [row["epoch_loss"] for row in run.history]


def test_what_a_resumed_run_may_not_change_is_refused(run):
    for wrong, sentence in (
        ({"seed": 3}, r"--seed was 0 and cannot change"),
        ({"recipe": "cifar10-resnet18"}, r"holds a run of recipe digits-resnet, not cifar10-resnet18"),
        ({"method": "trades"}, r"the recipe is one for dat, not trades"),
        ({"epoch": 3}, r"no field epoch; did you mean epochs\?"),
    ):
        with pytest.raises(dat.UserError, match=sentence):
            dat.train(resume=True, run_dir=run.path, **wrong)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "name the recipe"),
        ({"recipe": "digits-resnett"}, r"no recipe is called 'digits-resnett'; did you mean digits-resnet\?"),
        ({"recipe": "digits-resnet", "run_dri": "a"}, r"no field run_dri; did you mean run_dir\?"),
        ({"recipe": "digits-resnet", "progress": "loud"}, "progress must be one of auto, terminal"),
        ({"recipe": "digits-resnet", "device": "gpu"}, "no device is called 'gpu'"),
        ({"recipe": 3}, "recipe is a int"),
        ({"resume": True}, "name the run to resume"),
    ],
)
def test_wrong_input_is_a_user_error_and_writes_nothing(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dat.UserError, match=sentence):
        dat.train(**arguments)
    assert list(tmp_path.iterdir()) == []


def settings_of_the_process() -> tuple:
    return (
        warnings.showwarning,
        [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
    )


def test_the_process_is_left_as_it_was_and_a_second_run_repeats_the_first(run, tmp_path):
    before = settings_of_the_process()
    recipe = dat.recipe("digits-resnet", **TINY)
    again = dat.train(recipe, run_dir=tmp_path / "again", **QUIET)
    assert again.accuracy == run.accuracy
    assert settings_of_the_process() == before
    with pytest.raises(dat.UserError, match="already holds a run"):
        dat.train(recipe, run_dir=again.path, **QUIET)
    assert settings_of_the_process() == before


def test_a_failed_run_leaves_no_lock_and_no_handler(tmp_path, monkeypatch):
    before = settings_of_the_process()

    def fails(*_, **__):
        raise OSError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr("dat_engine.run.trainer.Trainer.train", fails)
        with pytest.raises(OSError, match="out of order"):
            dat.train("digits-resnet", run_dir=tmp_path / "a", **QUIET, **TINY)
    assert settings_of_the_process() == before
    assert dat.train(resume=True, run_dir=tmp_path / "a").ending == "finished"


def test_it_runs_in_another_thread(run, tmp_path):
    """As a notebook's kernel or a server may call it: no signal handler can be installed there."""
    found: list = []

    def work() -> None:
        found.append(dat.train("digits-resnet", run_dir=tmp_path / "threaded", max_steps=2, **QUIET, **TINY))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].ending == "step limit" and set(found[0].accuracy) == {"natural", "pgd20"}


def test_a_notebook_is_shown_lines(tmp_path, monkeypatch, capsys):
    """What rich takes for a notebook: a global get_ipython whose shell is ZMQInteractiveShell."""
    shell = type("ZMQInteractiveShell", (), {"__module__": "ipykernel.zmqshell"})
    monkeypatch.setattr("builtins.get_ipython", shell, raising=False)
    from rich.console import Console

    assert Console().is_jupyter
    dat.train("digits-resnet", run_dir=tmp_path / "a", device="cpu", **TINY)
    shown = capsys.readouterr().out
    assert "PGD-20" in shown and "\x1b" not in shown and "\r" not in shown
