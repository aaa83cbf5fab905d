"""Checkpoints whose checksum is right and whose content is something else: one sentence that names the first difference."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dat.cli import main
from dat_engine.run.checkpoint import load, save
from dat_engine.run.training_state import first_difference

TINY = [
    *("--limit-train", "32", "--batch-size", "16", "--model.width", "4", "--data.validation", "20", "--dat.steps", "1"),
    *("--evaluation.attacks", "natural", "--evaluation.limit", "10", "--device", "cpu", "--progress", "plain"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", "digits-resnet", *TINY, "--epochs", "2", "--run-dir", str(path)]) == 0
    return path


@pytest.fixture
def run(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def put(state: dict, place: str, value: object) -> None:
    """Sets, or with `value` ... removes, what `place` ("training/model/…") names."""
    *groups, leaf = place.split("/")
    inner = state
    for group in groups:
        inner = inner[int(group) if isinstance(inner, list) or group.isdigit() else group]
    if value is ...:
        del inner[leaf]
    else:
        inner[leaf] = value


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


ANYWHERE = [
    ("training/guard", ...),
    ("training/guard", 3),
    ("training/model", "weights"),
    ("training/players", {}),
    ("training/optimizers", []),
    ("training/optimizers/model", {}),
    ("training/optimizers/model/state", {}),
    ("training/optimizers/model/param_groups", None),
    ("training/steps_done", "12"),
    ("training/generator", torch.zeros(3)),
    ("training/generator", None),
    ("position", ...),
    ("position", {"epoch": 1}),
    ("position/step", 1.5),
    ("position/step", -1),
    ("position/surprise", 1),
    ("position/best", "high"),
    ("processes", []),
    ("processes", {"generator": 1}),
    ("processes/0/statistics", torch.zeros(3)),
    ("processes/0/epoch_sums", {"loss": torch.zeros(())}),
    ("processes/0/recent_sums", 5),
    ("processes/0/generator", torch.zeros(3)),
    ("identity", ...),
    ("identity", None),
    ("identity/recipe", {}),
    ("identity/recipe", {"name": "digits-resnet", "method": "dat", "colour": "red"}),
    ("identity/class_names", ["a", "b"]),
    ("metrics_lines", "many"),
    ("state_version", 1),
    ("state_version", 99),
    ("state_version", ...),
    ("training", ...),
    ("training", 5),
]


@pytest.mark.parametrize(("place", "value"), ANYWHERE, ids=lambda value: str(value)[:40].replace("\n", ""))
def test_resume_names_what_does_not_fit(run, capsys, place, value):
    state = load(newest(run))
    put(state, place, value)
    save(newest(run), state)
    metrics = (run / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    code = main(["train", "--resume", "--run-dir", str(run)])
    written = capsys.readouterr().err
    assert code == 2 and "Traceback" not in written and len(written.strip().splitlines()) == 1, written
    assert str(newest(run)) in written
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_the_first_difference_is_named(run, capsys):
    state = load(newest(run))
    name = next(name for name, value in state["training"]["model"].items() if value.ndim == 4)
    state["training"]["model"][name] = torch.zeros(7, 3, 3, 3)
    save(newest(run), state)
    assert main(["train", "--resume", "--run-dir", str(run)]) == 2
    assert f"training/model/{name} has shape [7, 3, 3, 3], not [4," in capsys.readouterr().err


def test_another_recipe_is_named_by_its_field(run, capsys):
    state = load(newest(run))
    state["identity"]["recipe"]["settings"]["beta"] = 3.0
    save(newest(run), state)
    assert main(["train", "--resume", "--run-dir", str(run)]) == 2
    assert "another recipe (recipe.settings.beta is 3.0, this run's is 6.0)" in capsys.readouterr().err


def test_a_checkpoint_of_the_first_version_can_be_evaluated_and_not_resumed(run, capsys):
    state = load(newest(run))
    training = state["training"]
    training["optimizer"] = training.pop("optimizers")["model"]
    del state["state_version"], state["metrics_lines"], training["players"], training["steps_done"]
    save(newest(run), state)
    assert main(["train", "--resume", "--run-dir", str(run)]) == 2
    assert (
        "was written by dat-engine 0.1.0, whose training state this version cannot go on from"
        in capsys.readouterr().err
    )
    assert main(["evaluate", str(newest(run)), "--attacks", "natural", "--limit", "10", "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("identity", ...),
        ("identity", "x"),
        ("identity/recipe", ...),
        ("identity/recipe", {"name": "digits-resnet", "method": 5}),
        ("identity/recipe", {"name": "digits-resnet", "method": "dat", "epochs": "many"}),
        ("identity/class_names", 7),
        ("identity/class_names", []),
        ("identity/class_names", [1, 2]),
        ("identity/image_shape", [1, 8]),
        ("identity/image_shape", ["a", 8, 8]),
        ("identity/image_shape", None),
        ("training", ...),
        ("training", []),
        ("training/model", ...),
        ("training/model", {}),
        ("training/model", {"w": 1}),
        ("training/model", [torch.zeros(1)]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_evaluate_names_what_does_not_fit(run, tmp_path, capsys, place, value):
    state = load(newest(run))
    put(state, place, value)
    path = tmp_path / "foreign.safetensors"
    save(path, state)
    capsys.readouterr()
    code = main(["evaluate", str(path), "--attacks", "natural", "--limit", "10", "--device", "cpu"])
    written = capsys.readouterr().err
    assert code == 2 and "Traceback" not in written and len(written.strip().splitlines()) == 1, written
    assert str(path) in written


def test_a_damaged_best_checkpoint_does_not_undo_a_training(run, capsys):
    best = run / "checkpoints" / "best.safetensors"
    content = bytearray(best.read_bytes())
    content[-3] ^= 1
    best.write_bytes(content)
    (run / "summary.json").unlink()
    assert main(["train", "--resume", "--run-dir", str(run)]) == 0
    written = capsys.readouterr()
    assert "best.safetensors is damaged" in written.out + written.err
    assert json.loads((run / "summary.json").read_text())["checkpoint"] == "last"
    assert main(["evaluate", str(run), "--attacks", "natural", "--limit", "10", "--device", "cpu"]) == 0


def test_a_summary_that_the_disk_refuses_is_a_failed_run(run, capsys):
    (run / "summary.json").unlink()
    (run / "summary.json").mkdir()  # what is in the way of a rename, as a full disk is
    assert main(["train", "--resume", "--run-dir", str(run)]) == 1
    written = capsys.readouterr().err
    assert "cannot write" in written and "Traceback" not in written


def test_a_run_that_diverged_goes_on_at_a_lower_rate(run, capsys):
    words = ["train", "--resume", "--run-dir", str(run)]
    assert main([*words, "--optimizer.learning-rate", "0.1"]) == 2
    assert "cannot change in a resumed run" in capsys.readouterr().err
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "epoch": 3, "ending": "non-finite"}) + "\n")
    assert main([*words, "--optimizer.learning-rate", "0.5"]) == 2
    assert "was 0.3 when the run's steps became non-finite, and can only be lowered" in capsys.readouterr().err
    assert main([*words, "--optimizer.learning-rate", "0.1"]) == 0
    assert json.loads((run / "config.json").read_text())["recipe"]["optimizer"]["learning_rate"] == 0.1
    assert main(words) == 0, "and again, its checkpoints being of the higher rate"


def test_differences():
    tensor = torch.zeros(2, 3)
    assert first_difference({"a": [tensor]}, {"a": [tensor]}) is None
    assert first_difference({"a": [tensor]}, {"a": [tensor.double()]}) == "a[0] holds float32, not float64"
    assert first_difference({"lr": 0.1}, {"lr": torch.tensor(0.1)}) is None, "kinds of device differ in this"
    assert first_difference({"n": True}, {"n": 1}) == "n is a bool, not an int"
    assert first_difference({}, {"n": 1}) == "n is missing"
    assert first_difference({"n": 1, "m": 1}, {"n": 1}) == "m is unknown here"
