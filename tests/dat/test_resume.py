"""`dat train --resume --run-dir RUN`: what the run directory knows, what may change, and what is refused by name."""

import json
from pathlib import Path

import pytest

from dat.cli import main
from dat.cli.train_flags import parse_train_flags
from dat.recipes.reading import recipe_from_dict

TINY = [
    *("--limit-train", "32", "--batch-size", "16", "--model.width", "4", "--data.validation", "0", "--dat.steps", "1"),
    *("--evaluation.attacks", "natural", "--evaluation.limit", "10", "--device", "cpu", "--progress", "plain"),
    *("--schedule.kind", "step", "--schedule.milestones", "1"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", "digits-resnet", *TINY, "--epochs", "2", "--run-dir", str(path)]) == 0
    return path


def document(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


def test_the_config_holds_where_the_run_was_run(run):
    assert document(run)["run"]["device"] == "cpu"
    assert document(run)["run"]["data_root"] == str(Path("data").absolute())


def test_resume_takes_everything_from_the_run_directory(run):
    recipe, options = parse_train_flags(["--resume", "--run-dir", str(run)])
    assert recipe == recipe_from_dict(document(run)["recipe"])
    assert (options.run_dir, options.resume, options.device, options.progress) == (run, True, "cpu", "plain")
    again, _ = parse_train_flags(["digits-resnet", "--method", "dat", "--resume", f"--run-dir={run}"])
    assert again == recipe


def test_a_config_of_an_older_version_falls_back_to_the_default(run, tmp_path):
    old = document(run)
    del old["run"], old["recipe"]["log_every"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    recipe, options = parse_train_flags(["--resume", "--run-dir", str(tmp_path)])
    assert str(options.data_root) == "data" and options.device is None and recipe.log_every == 50


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--optimizer.learning-rate", "0.2"], "--optimizer.learning-rate was 0.3 and cannot change in a resumed run"),
        (["--dat.beta", "3"], "--dat.beta was 6.0 and cannot change"),
        (["--epochs", "1"], "--epochs was 2 and can only grow"),
        (["--method", "trades"], "holds a run of method dat, not trades"),
        (["--epoch", "3"], "unrecognized --epoch; did you mean --epochs?"),
        (["--config", "x.json"], "give one of the two"),
    ],
)
def test_what_the_numbers_depend_on_cannot_change(run, capsys, words, sentence):
    before = document(run)
    assert main(["train", "--resume", "--run-dir", str(run), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert main(["train", "cifar10-resnet18", "--resume", "--run-dir", str(run)]) == 2
    assert "holds a run of recipe digits-resnet, not cifar10-resnet18" in capsys.readouterr().err
    assert document(run) == before


def test_epochs_of_a_stretched_schedule_cannot_change(run, tmp_path, capsys):
    other = document(run)
    other["recipe"]["schedule"]["kind"] = "cosine"
    (tmp_path / "config.json").write_text(json.dumps(other))
    assert main(["train", "--resume", "--run-dir", str(tmp_path), "--epochs", "3"]) == 2
    assert "--epochs was 2 and cannot change in a resumed run (the schedule cosine stretches" in capsys.readouterr().err


def test_more_epochs_equal_a_run_that_was_as_long_from_the_start(run, tmp_path):
    whole = tmp_path / "whole"
    assert (
        main(["train", "digits-resnet", *TINY, "--epochs", "3", "--schedule.milestones", "1", "--run-dir", str(whole)])
        == 0
    )
    words = ["--epochs", "3", "--log-every", "1", "--data.workers", "1", "--engine.execution", "eager"]
    assert main(["train", "--resume", "--run-dir", str(run), *words]) == 0
    last = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()][-1] for path in (run, whole)
    ]
    assert last[0]["epoch"] == last[1]["epoch"] == 3 and last[0]["epoch_loss"] == last[1]["epoch_loss"]
    # what was changed is what the next --resume goes on with
    assert document(run)["recipe"]["epochs"] == 3 and document(run)["recipe"]["log_every"] == 1
    assert "versions" in document(run)


def test_ctrl_c_while_evaluating_says_what_is_saved(run, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dat.training.result.evaluate", interrupted)
    assert main(["train", "--resume", "--run-dir", str(run)]) == 130
    said = capsys.readouterr().out
    assert f"training is complete and saved in {run}" in said and f"dat evaluate {run}" in said


def test_evaluate_finds_the_data_root_or_says_that_it_is_gone(run, tmp_path, monkeypatch, capsys):
    seen = []
    import dat.cli.evaluate as command

    real = command.load_test_data
    monkeypatch.setattr(
        command, "load_test_data", lambda recipe, root, limit: seen.append(root) or real(recipe, root, limit)
    )
    words = ["evaluate", str(run), "--attacks", "natural", "--limit", "10", "--json", "--device", "cpu"]
    assert main(words) == 0
    assert main([*words, "--data-root", "elsewhere"]) == 0
    assert [str(root) for root in seen] == [document(run)["run"]["data_root"], "elsewhere"]
    monkeypatch.setattr(command, "needs_files", lambda name: True)
    capsys.readouterr()
    assert main([*words, "--data-root", str(tmp_path / "gone")]) == 2
    assert f"the data root {tmp_path / 'gone'} does not exist" in capsys.readouterr().err
