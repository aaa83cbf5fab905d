"""``dat train`` with a network that has no BatchNorm: said once, trained, resumed, evaluated; its flags."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch

from dat.cli import main
from dat.cli.train_flags import parse_train_flags
from dat_engine.run.checkpoint import load
from dat_engine.run.schedule import Schedule
from dat_engine.run.state_tree import take_apart
from dat_engine.step.optimizer_settings import AdamWSettings, SGDSettings

FLAGS = [
    *("--model.name", "vit_lite_patch4"),
    *("--model.width", "8"),
    *("--optimizer.kind", "adamw"),
    *("--optimizer.clip-norm", "1"),
    *("--schedule.kind", "cosine"),
    *("--schedule.warmup-epochs", "0.5"),
    *("--epochs", "2"),
    *("--limit-train", "64"),
    *("--batch-size", "16"),
    *("--data.validation", "20"),
    *("--dat.steps", "1"),
    *("--evaluation.attacks", "natural,pgd20"),
    *("--evaluation.limit", "20"),
    *("--device", "cpu"),
    *("--progress", "plain"),
    *("--precision.name", "fp32"),
]


def train(run: Path, *flags: str) -> int:
    return main(["train", "digits-resnet", *FLAGS, "--run-dir", str(run), *flags])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, list[str]]:
    run = tmp_path_factory.mktemp("runs") / "run"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert train(run) == 0
    return run, said.getvalue().splitlines()


def newest(run: Path) -> dict[str, torch.Tensor]:
    path = max((run / "checkpoints").glob("step*"), key=lambda path: path.name)
    state = load(path)
    state["position"]["seconds"] = 0.0
    text, tensors = take_apart({name: state[name] for name in ("training", "position")})
    return tensors | {"text": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def test_what_is_lost_is_said_once_with_its_source(uninterrupted):
    said = [message for message in uninterrupted[1] if "BatchNorm" in message]
    assert len(said) == 1
    assert "vit_lite_patch4 has no BatchNorm, so the branches of dat share its normalisation" in said[0]
    assert "84.17 -> 82.37" in said[0] and "57.55 -> 53.07" in said[0] and "51.36 -> 46.53" in said[0]


def test_a_method_with_one_branch_loses_nothing(tmp_path, capsys):
    flags = [flag if flag != "--dat.steps" else "--pgd-at.steps" for flag in FLAGS]
    run = tmp_path / "run"
    assert main(["train", "digits-resnet", "--method", "pgd-at", *flags, "--run-dir", str(run)]) == 0
    assert "BatchNorm" not in capsys.readouterr().err


def test_going_on_equals_never_having_stopped(uninterrupted, tmp_path):
    run = tmp_path / "run"
    assert train(run, "--max-steps", "3") == 0
    assert train(run, "--resume") == 0
    one, other = newest(uninterrupted[0]), newest(run)
    assert one.keys() == other.keys()
    assert any("exp_avg_sq" in name for name in one)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_it_is_evaluated_from_its_run(uninterrupted, capsys):
    run, _ = uninterrupted
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["accuracy"]) == {"natural", "pgd20"}
    capsys.readouterr()
    assert main(["evaluate", str(run), "--attacks", "natural,pgd20", "--limit", "20", "--json", "--device", "cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert str(summary["accuracy"]["natural"]) in json.dumps(printed)


def test_the_rate_warms_up(uninterrupted):
    rows = [json.loads(line) for line in (uninterrupted[0] / "metrics.jsonl").read_text().splitlines()]
    assert 0 < rows[-1]["lr"] < AdamWSettings().learning_rate
    config = json.loads((uninterrupted[0] / "config.json").read_text())
    assert config["recipe"]["optimizer"]["kind"] == "adamw"
    assert config["recipe"]["settings"]["generator_optimizer"]["kind"] == "sgd"


def parsed(*words: str):
    return parse_train_flags(list(words))[0]


def test_the_kind_of_an_optimizer_decides_its_flags():
    recipe = parsed("cifar10-resnet18", "--optimizer.betas", "0.9", "0.95", "--optimizer.kind=adamw")
    assert recipe.optimizer == AdamWSettings(betas=(0.9, 0.95)) and recipe.settings.generator_optimizer == SGDSettings()
    recipe = parsed("cifar10-resnet18", "--dat.generator-optimizer.kind", "adamw")
    assert recipe.optimizer == SGDSettings() and recipe.settings.generator_optimizer == AdamWSettings()
    assert parsed("cifar10-vit", "--optimizer.kind", "sgd").optimizer == SGDSettings()
    assert parsed("cifar10-vit", "--optimizer.kind", "adamw").optimizer.clip_norm == 1.0  # the recipe's, as it was


def test_another_length_keeps_the_share_of_the_warm_up_unless_it_is_named():
    assert parsed("cifar10-vit").schedule == Schedule(kind="cosine", milestones=(), warmup_epochs=7.5)
    assert parsed("cifar10-vit", "--epochs", "10").schedule.warmup_epochs == pytest.approx(0.5)
    assert parsed("cifar10-vit", "--epochs", "10", "--schedule.warmup-epochs", "2").schedule.warmup_epochs == 2
    named = parsed("cifar10-resnet18", "--epochs", "15", "--schedule.warmup_epochs=3").schedule
    assert (len(named.milestones), named.milestones[0] <= 10, named.warmup_epochs) == (2, True, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optimizer.kind", "adam"], "no optimizer is called 'adam'; did you mean adamw"),
        (["--optimizer.kind", "adamw", "--optimizer.momentum", "0.9"], "--optimizer.momentum"),
        (["--model.name", "vit_b_16", "--model.width", "100"], "a width of 100 does not divide"),
        (["--model.name", "convnext_tiny"], "images of at least 32 pixels; got 16x16"),
        (["--schedule.kind", "cosine", "--schedule.warmup-epochs", "2", "--epochs", "2"], "shorter than the run"),
        (["--schedule.warmup-epochs", "1"], "a one-cycle schedule warms up by itself"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_writes_nothing(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dat.training.train.load_training_data", lambda *_: pytest.fail("data were read"))
    run = tmp_path / "run"
    assert main(["train", "digits-resnet", *flags, "--run-dir", str(run), "--device", "cpu"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not run.exists()
