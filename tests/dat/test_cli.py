"""The command as a person meets it: what it writes, what it says, what it refuses, and how it goes on."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dat.cli import main
from dat.cli.train_flags import parse_train_flags

TINY = [
    "--limit-train",
    "64",
    "--batch-size",
    "16",
    "--model.width",
    "4",
    "--data.validation",
    "20",
    "--evaluation.attacks",
    "natural,pgd20",
    "--evaluation.limit",
    "20",
    "--device",
    "cpu",
    "--progress",
    "plain",
]


def train(run: Path, *flags: str) -> int:
    return main(["train", "digits-resnet", *TINY, "--run-dir", str(run), *flags])


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train(run, "--epochs", "2") == 0
    return run


def test_a_run_leaves_what_the_design_promises(finished_run):
    assert {path.name for path in finished_run.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "tensorboard",
        "summary.json",
    }
    config = json.loads((finished_run / "config.json").read_text())
    assert config["recipe"]["name"] == "digits-resnet" and config["recipe"]["settings"]["beta"] == 6.0
    assert {"versions", "git_commit", "hardware"} <= set(config)
    summary = json.loads((finished_run / "summary.json").read_text())
    assert set(summary["accuracy"]) == {"natural", "pgd20"}
    assert 0 <= summary["accuracy"]["pgd20"] <= summary["accuracy"]["natural"] <= 100


@pytest.mark.parametrize("method", ["pgd-at", "trades", "plain"])
def test_every_other_method_trains(tmp_path, method):
    assert train(tmp_path / "run", "--method", method, "--epochs", "1") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["method"] == method


def test_torchvision_loader_trains(tmp_path):
    assert train(tmp_path / "run", "--epochs", "1", "--data.loader", "torchvision") == 0


def test_evaluate_takes_a_run_or_a_checkpoint(finished_run, capsys):
    outputs = []
    for source in (finished_run, finished_run / "checkpoints" / "best.safetensors"):
        assert main(["evaluate", str(source), "--attacks", "natural,fgsm", "--limit", "40", "--json"]) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    assert outputs[0]["accuracy"] == outputs[1]["accuracy"]
    assert outputs[0]["images"] == 40 and set(outputs[0]["accuracy"]) == {"natural", "fgsm"}


def test_evaluation_repeats_the_summary(finished_run, capsys):
    assert main(["evaluate", str(finished_run), "--attacks", "natural,pgd20", "--limit", "20", "--json"]) == 0
    repeated = json.loads(capsys.readouterr().out)["accuracy"]
    summary = json.loads((finished_run / "summary.json").read_text())["accuracy"]
    assert {name: value["percent"] for name, value in repeated.items()} == summary


def test_predictions_of_an_evaluation_are_saved(finished_run, tmp_path, capsys):
    path = tmp_path / "predictions.csv"
    words = ["evaluate", str(finished_run), "--attacks", "natural,fgsm", "--limit", "40", "--json"]
    assert main([*words, "--save-predictions", str(path)]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "target", "natural", "natural_correct", "fgsm", "fgsm_correct"]
    assert [int(row["index"]) for row in rows] == list(range(40))
    for name in ("natural", "fgsm"):
        assert accuracy[name]["percent"] == 100 * sum(row[name] == row["target"] for row in rows) / 40
    assert "ends in .csv" in refused(capsys, *words, "--save-predictions", str(tmp_path / "predictions.npz"))
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]


def test_resume_after_a_time_limit_equals_an_uninterrupted_run(tmp_path, capsys):
    assert train(tmp_path / "parts", "--epochs", "2", "--time-limit", "0.01s") == 0
    assert f"go on with: dat train --resume --run-dir {tmp_path / 'parts'}" in capsys.readouterr().out
    assert not (tmp_path / "parts" / "summary.json").exists()
    assert main(["train", "--resume", "--run-dir", str(tmp_path / "parts")]) == 0
    assert train(tmp_path / "whole", "--epochs", "2") == 0
    parts, whole = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("parts", "whole"))
    assert parts["accuracy"] == whole["accuracy"]


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, capsys):
    assert train(tmp_path / "whole", "--epochs", "1") == 0
    assert train(tmp_path / "run", "--epochs", "1") == 0
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "run" / "summary.json").unlink()
    assert main(["train", "--resume", "--run-dir", str(tmp_path / "run")]) == 2
    assert (
        f"goes to step 4; put its checkpoints back, or start it from its beginning with: dat train --config {tmp_path}"
        in capsys.readouterr().err
    )
    (tmp_path / "run" / "metrics.jsonl").write_text("")  # as before its first row
    assert train(tmp_path / "run", "--epochs", "1", "--resume") == 0
    rows, expected = (
        [json.loads(line)["step"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "whole")
    )
    assert rows == expected
    first, again = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "run"))
    assert first["accuracy"] == again["accuracy"]


def test_sigterm_saves_and_exits_143(tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "dat", "train", "digits-resnet", *TINY, "--epochs", "5000", "--run-dir", str(run)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not list((run / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
    assert train(run, "--epochs", "5000", "--resume", "--time-limit", "0.01s") == 0


def refused(capsys, *words: str) -> str:
    """Run a wrong command; returns its one sentence."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "cifar10-resnet"], "no recipe is called 'cifar10-resnet'; did you mean cifar10-resnet18?"),
        (["train", "zzz"], "no recipe is called 'zzz'; choose one of digits-resnet"),
        (["train"], "name the recipe first"),
        (["train", "--epochs", "3"], "name the recipe first"),
        (["train", "digits-resnet", "--method", "dap"], "no method is called 'dap'; did you mean dat?"),
        (["train", "digits-resnet", "--epsilon", "8"], "epsilon must lie in (0, 1], images being in [0, 1]; got 8"),
        (["train", "digits-resnet", "--epsilon", "0"], "epsilon must lie in (0, 1]"),
        (["train", "digits-resnet", "--epsilon", "-0.1"], "epsilon must lie in (0, 1]"),
        (["train", "digits-resnet", "--epochs", "0"], "epochs must be at least 1; got 0"),
        (["train", "digits-resnet", "--batch-size", "5000"], "5000"),
        (["train", "digits-resnet", "--limit-train", "99999"], "99999"),
        (
            ["train", "digits-resnet", "--model.name", "resnet19"],
            "no model is called 'resnet19'; did you mean resnet18?",
        ),
        (["train", "digits-resnet", "--model.width", "0"], "width must be at least 1"),
        (["train", "digits-resnet", "--data.name", "digit"], "no data set is called 'digit'; did you mean digits?"),
        (["train", "digits-resnet", "--dat.beta", "-1"], "beta and omega must be finite and not negative"),
        (["train", "digits-resnet", "--dat.steps", "0"], "steps must be at least 1"),
        (["train", "digits-resnet", "--time-limit", "soon"], "is not a duration"),
        (["train", "digits-resnet", "--dat.beta", "nan"], "beta and omega must be finite"),
        (["train", "digits-resnet", "--dat.step-size", "nan"], "step_size must be positive and finite"),
        (["train", "digits-resnet", "--optimizer.learning-rate", "nan"], "learning_rate must be positive and finite"),
        (["train", "digits-resnet", "--schedule.decay", "-1"], "decay must lie in (0, 1]"),
        (["train", "digits-resnet", "--evaluation.batch-size", "0"], "evaluation.batch_size must be at least 1"),
        (["train", "digits-resnet", "--batch-size", "1"], "use a batch_size of at least 2"),
        (["train", "digits-resnet", "--precision.name", "fp64"], "fp64 is for checks"),
        (["train", "digits-resnet", "--seed", "-1"], "seed must be a non-negative"),
        (["evaluate", "nowhere", "--seed", "-1"], "seed must be a non-negative"),
        (["train", "digits-resnet", "--max-steps", "0"], "max_steps must be at least 1"),
        (["train", "digits-resnet", "--evaluation.attacks", "pgd"], "no attack is called 'pgd'; did you mean pgd20?"),
        (["train", "digits-resnet", "--device", "tpu"], "tpu"),
        (["train", "digits-resnet", "--device", "cuda:99"], "cuda:99 is not there"),
        (["train", "digits-resnet", "--precision.name", "int8"], "precision must be one of"),
        (["train", "digits-resnet", "--epohcs", "3"], "unrecognized --epohcs; did you mean --epochs?"),
        (["train", "digits-resnet", "--epochs", "many"], "--epochs: 'many' is not a whole number"),
        (["train", "digits-resnet", "--data.loader", "disk"], "'resident', 'dali', 'torchvision'"),
        (["evaluate"], "name what to evaluate"),
        (["train", "digits-resnet", "--resume"], "there is no run at"),
        (["evaluate", "nowhere"], "nowhere is neither a run directory nor a checkpoint"),
        (["frobnicate"], "no command is called 'frobnicate'; choose one of train"),
        (["recipes", "all"], "takes no arguments"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_one_sentence_and_nothing_written(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *words)
    assert not list(tmp_path.rglob("config.json"))


def test_missing_data_is_one_sentence(tmp_path, monkeypatch, capsys):
    import socket

    def no_network(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    assert "file" in refused(capsys, "train", "cifar10-resnet18", "--data-root", "file", "--device", "cpu")
    message = refused(capsys, "train", "cifar10-resnet18", "--device", "cpu")
    assert "cifar" in message.lower()


def test_a_misspelt_data_root_creates_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    message = refused(capsys, "train", "cifar10-resnet18", "--data-root", "dta", "--device", "cpu")
    assert "the data root dta does not exist" in message and "mkdir -p dta" in message
    assert not list(tmp_path.iterdir())


def test_damaged_data_is_one_sentence(tmp_path, monkeypatch, capsys):
    import socket

    def no_network(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", *(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(b"not a batch")
    monkeypatch.chdir(tmp_path)
    refused(capsys, "train", "cifar10-resnet18", "--data-root", ".", "--device", "cpu")


def test_an_occupied_run_directory_is_left_alone(finished_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()}
    message = refused(capsys, "train", "digits-resnet", *TINY, "--run-dir", str(finished_run), "--epochs", "2")
    assert "already holds a run" in message and "--resume" in message
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()} == before


def test_resume_with_another_recipe_is_refused(finished_run, capsys):
    words = ["train", "digits-resnet", *TINY, "--run-dir", str(finished_run), "--epochs", "2", "--resume"]
    assert "--dat.beta was 6.0 and cannot change in a resumed run" in refused(capsys, *words, "--dat.beta", "3")
    assert "method" in refused(capsys, *words, "--method", "trades")


def test_a_damaged_checkpoint_is_one_sentence(finished_run, tmp_path, capsys):
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray((finished_run / "checkpoints" / "best.safetensors").read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    assert "damaged" in refused(capsys, "evaluate", str(damaged), "--limit", "10")
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    refused(capsys, "evaluate", str(text), "--limit", "10")


def test_every_recipe_field_is_a_flag():
    recipe, options = parse_train_flags(
        [
            "cifar10-resnet18",
            "--method=trades",
            "--trades.beta",
            "5",
            "--optimizer.learning-rate",
            "0.05",
            "--data.padding",
            "2",
            "--seed",
            "3",
            "--data-root",
            "elsewhere",
            "--precision.name",
            "bf16",
            "--epochs",
            "20",
            "--time-limit",
            "9m",
        ]
    )
    assert (recipe.method, recipe.settings.beta, recipe.optimizer.learning_rate, recipe.seed) == ("trades", 5, 0.05, 3)
    assert recipe.schedule.milestones == (15, 18)  # 75 and 90 of 100, kept in proportion
    assert str(options.data_root) == "elsewhere" and recipe.data.padding == 2


def test_stated_milestones_are_kept():
    recipe, _ = parse_train_flags(["cifar10-resnet18", "--epochs", "20", "--schedule.milestones", "3", "4"])
    assert recipe.schedule.milestones == (3, 4)


def test_other_milestones_follow_the_epochs():
    recipe, _ = parse_train_flags(["cifar10-resnet18", "--epochs", "200", "--schedule.milestones", "100", "110"])
    assert recipe.schedule.milestones == (100, 110)
    recipe, _ = parse_train_flags(["cifar10-resnet18", "--epochs", "30", "--schedule.decay", "0.2"])
    assert recipe.schedule.milestones == (20, 22) and recipe.schedule.decay == 0.2


def test_recipes_doctor_and_help(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    for name in ("digits-resnet", "cifar10-resnet18", "cifar100-wrn34-10", "cifar10-wrn28-10", "pgd-at", "trades"):
        assert name in listed
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert "native kernels" in report and "torch" in report and "AutoAttack" in report
    assert main(["--help"]) == 0
    assert re.search(r"dat train", capsys.readouterr().out)
