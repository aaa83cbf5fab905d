"""`dat profile`: what it measures, what it writes, what it refuses before it measures."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from rich.console import Console

import dat.profiling.profile
from dat.cli import main
from dat.cli.profile_flags import parse_profile_flags
from dat.profiling.step_profile import MethodProfile, Profile
from dat.profiling.table import significant, table
from dat.recipes import recipe
from dat.training.title import weights_title
from dat_engine.profile.ranges import RANGES

TINY = [
    "digits-resnet",
    *("--limit-train", "64", "--batch-size", "16", "--model.width", "4", "--data.validation", "20"),
    *("--device", "cpu", "--steps", "1", "--rounds", "2"),
]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory) -> tuple[dict, Path]:
    """One run with everything; its JSON and its folder."""
    folder = tmp_path_factory.mktemp("profile")
    files = ["--json", "p.json", "--picture", "p.svg", "--trace", "t.json"]
    words = [str(folder / word) if word.endswith(("json", "svg")) and word[0] != "-" else word for word in files]
    methods = ["--methods", "dat,pgd-at", "--baseline", "eager"]
    assert main(["profile", *TINY, *methods, *words, "--pgd-at.steps", "3", "--dat.beta", "2"]) == 0
    return json.loads((folder / "p.json").read_text()), folder


def test_every_figure_follows_from_what_was_timed(profiled):
    written, _ = profiled
    assert list(written["methods"]) == ["dat", "pgd-at", "eager dat", "eager pgd-at"]
    reference = written["methods"]["pgd-at"]["round_seconds"]
    for method in written["methods"].values():
        rounds = method["round_seconds"]
        assert len(rounds) == written["rounds"] == 2 and method["steps_per_round"] == 1
        step = sum(rounds) / 2  # the median of two
        assert method["step_seconds"] == pytest.approx(step)
        assert method["steps_per_epoch"] == 4
        assert method["epoch_seconds"] == pytest.approx(4 * step)
        assert method["images_per_second"] == pytest.approx(16 / step)
        ratio = (rounds[0] / reference[0] + rounds[1] / reference[1]) / 2
        assert method["ratio_to_reference"] == pytest.approx(ratio)
        assert method["flops_per_second"] == pytest.approx(method["flops"] / step)
        rate = written["matrix_product_rates"][method["precision"]]
        assert method["share_of_matrix_product_rate"] == pytest.approx(method["flops_per_second"] / rate)
        assert method["busy"] > 0 and method["peak_memory_bytes"] is None
    assert written["process_peak_memory_bytes"] > 50e6
    flops = {name: method["flops"] for name, method in written["methods"].items()}
    assert flops["eager dat"] > 1.3 * flops["dat"] > 1.3 * flops["pgd-at"]


def test_phases_add_up_to_the_profiled_step(profiled):
    written, _ = profiled
    for method in written["methods"].values():
        assert set(method["phases"]) == {*RANGES, "other"}
        assert sum(method["phases"].values()) == pytest.approx(method["profiled_step_seconds"])
        for name in ("data", "attack", "joint", "optimizer"):
            assert method["phases"][name] > 0, name
    assert written["methods"]["dat"]["phases"]["mix"] > 0 == written["methods"]["pgd-at"]["phases"]["mix"]


def test_the_json_says_what_was_measured_and_on_what(profiled):
    written, _ = profiled
    assert written["recipe"]["name"] == "digits-resnet" and written["recipe"]["method"] == ["dat", "pgd-at"]
    assert written["recipe"]["settings"]["pgd-at"]["steps"] == 3 and written["recipe"]["settings"]["dat"]["beta"] == 2
    assert {"versions", "git_commit", "hardware", "date"} <= set(written["environment"])
    assert "extrapolated" in written["meaning"]["epoch_seconds"]
    assert {"phases", "busy", "peak_memory"} < set(written["meaning"])
    assert (written["device"], written["reference"]) == ("cpu", "pgd-at") and written["threads"] >= 1
    methods = written["methods"].values()
    assert [(method["precision"], method["execution"]) for method in methods] == [("fp32", "eager")] * 4


def test_the_picture_shows_every_phase_of_every_method(profiled):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, which is optional")
    _, folder = profiled
    assert (folder / "p.svg").read_text().count("</svg>") == 1


def test_the_trace_holds_the_phases_of_every_method(profiled):
    _, folder = profiled
    names = {event.get("name") for event in json.loads((folder / "t.json").read_text())["traceEvents"]}
    assert {f"dat-engine: {name}" for name in RANGES} <= names
    assert {f"dat-engine window: {name}" for name in ("dat", "pgd-at", "eager dat", "eager pgd-at")} <= names


def test_captured_steps_are_profiled_both_ways(tmp_path, capsys, monkeypatch):
    path = tmp_path / "p.json"
    words = ["--methods", "pgd-at", "--engine.execution", "graphed", "--json", str(path)]
    # a CPU has no graphs and the command refuses them; GraphedStep's stand-in for a capture takes the same way through
    monkeypatch.setattr(dat.profiling.profile, "check_without_data", lambda *_: None)
    with torch.compiler.set_stance("force_eager"):  # compiling would take most of a minute and is not what is tested
        assert main(["profile", *TINY, *words]) == 0
    method = json.loads(path.read_text())["methods"]["pgd-at"]
    assert method["execution"] == "graphed" and method["phases"]["attack"] > method["phases"]["joint"]
    table = capsys.readouterr().out
    for row in ("seconds per epoch", "ratio to PGD-AT", "images/s", "clean forward", "CPU busy", "matrix-product rate"):
        assert row in table
    assert "extrapolated to their 4 steps" in " ".join(table.split()) and "Peak memory of the process" in table


def test_without_pgd_at_there_is_no_ratio(tmp_path):
    path = tmp_path / "p.json"
    assert main(["profile", *TINY, "--methods", "plain", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["methods"]["plain"]["ratio_to_reference"] is None


def test_what_a_method_does_to_its_weights_besides_is_said_of_it():
    def method(name: str, weights: dict[str, object]) -> MethodProfile:
        known = {"execution": "eager", "precision": "fp32", "phases": dict.fromkeys((*RANGES, "other"), 0.0)}
        return MethodProfile(**{**{each.name: 1.0 for each in fields(MethodProfile)}, **known, "weights": weights})

    recipes = [recipe("cifar10-resnet18", name) for name in ("pgd-at", "dajat", "sar")]
    methods = {made.method: method(made.method, weights_title(made)) for made in recipes}
    profile = Profile(device="cpu", rounds=1, matrix_product_rates={}, process_peak_memory_bytes=1, methods=methods)
    console = Console(width=120)
    with console.capture() as said:
        console.print(table(profile, title="made up"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.get().splitlines()]
    for row in (["awp", "-", "0.005", "-"], ["ema", "-", "0.9996", "-"], ["swa", "-", "-", "from epoch 75"]):
        assert row in rows
    assert "AWP, EMA, SWA: of the method's recipe" in said.get()
    assert profile.to_dict({})["methods"]["dajat"]["weights"] == {"awp": 0.005, "ema": 0.9996}


def test_recipe_flags_reach_every_method_and_settings_their_own():
    words = ["digits-resnet", "--methods=trades,dat", "--epsilon", "0.2", "--trades.beta", "5"]
    recipes, options = parse_profile_flags(words)
    assert [(recipe.method, recipe.epsilon, recipe.settings.beta) for recipe in recipes] == [
        ("trades", 0.2, 5.0),
        ("dat", 0.2, 6.0),
    ]
    assert (options.steps, options.rounds, options.baseline) == (None, 5, None)
    recipes, _ = parse_profile_flags(["cifar10-resnet18"])
    assert [recipe.method for recipe in recipes] == ["dat", "pgd-at", "trades"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name the recipe first: dat profile RECIPE"),
        (["cifar11"], "no recipe is called 'cifar11'"),
        (["digits-resnet", "--methods", "dat,dap"], "no method is called 'dap'; did you mean dat?"),
        (["digits-resnet", "--methods", ""], "no method is called ''"),
        (["digits-resnet", "--methods", "dat,dat"], "--methods names dat twice"),
        (["digits-resnet", "--methods", "dat", "--trades.beta", "5"], "--trades.beta"),
        (["digits-resnet", "--steps", "0"], "steps must be at least 1; got 0"),
        (["digits-resnet", "--rounds", "-1"], "rounds must be at least 1; got -1"),
        (["digits-resnet", "--json", "nowhere/p.json"], "create nowhere first"),
        (["digits-resnet", "--trace", "."], "is a directory; name a file"),
        (["digits-resnet", "--picture", "p.jpeg"], "--picture must end in .svg or .png; got p.jpeg"),
        (["digits-resnet", "--json", "a", "--trace", "./a"], "must name different files"),
        (["digits-resnet", "--baseline", "lazy"], "eager"),
        (["digits-resnet", "--epsilon", "8"], "epsilon must lie in (0, 1]"),
        (["digits-resnet", "--device", "tpu"], "tpu"),
        (
            ["cifar10-wrn34-10", "--baseline", "eager"],
            "the eager baselines exist for resnet18 and resnet8, not for wrn",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_one_sentence_before_anything_is_measured(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dat.profiling.profile, "engine_subject", lambda *_: pytest.fail("it began to measure"))
    assert main(["profile", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.strip().splitlines()) == 1
    assert sentence in captured.err
    assert not list(tmp_path.iterdir())


def test_a_picture_without_matplotlib_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dat.profiling.profile.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(dat.profiling.profile, "engine_subject", lambda *_: pytest.fail("it began to measure"))
    assert main(["profile", "digits-resnet", "--picture", str(tmp_path / "p.png")]) == 2
    assert "--picture needs matplotlib" in capsys.readouterr().err


def test_significant_digits():
    values = (0.0, 0.00012, 0.1234, 1.234, 12.34, 123.4, 1234.5)
    assert [significant(value) for value in values] == ["0", "0.000", "0.123", "1.23", "12.3", "123", "1,234"]
