"""The page on DAT's ablations and the sweep of its rows say the same."""

import re
from dataclasses import replace

from dat.cli.train_flags import parse_train_flags
from dat.recipes import Recipe
from dat.sweep.file import read_sweep
from tests.docs.pages import DOCS, ROOT

PAGE = (DOCS / "methods" / "ablations.md").read_text(encoding="utf-8")


def recipes_of_commands(section: str, pattern: str) -> list[Recipe]:
    """The recipes by the commands of a section, in their order."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return [parse_train_flags(words.split())[0] for words in re.findall(pattern, text, re.MULTILINE)]


def settings_of_commands(section: str) -> list:
    """The method's settings by the commands in the tables of a section, in their order."""
    return [made.settings for made in recipes_of_commands(section, r"\| `dat train ([^`]+)` \|")]


def test_the_sweep_runs_the_rows_with_published_figures():
    sweep = read_sweep(ROOT / "examples" / "sweep_dat_ablations.yaml")
    runs = [run.recipe for run in sweep.runs if run.seed == sweep.runs[0].seed and run.recipe.method == "dat"]
    rows = settings_of_commands("Rows with published figures")
    assert [recipe.settings for recipe in runs[:7]] == rows and len(set(map(repr, rows))) == len(rows) == 7
    weights = recipes_of_commands("Rows with published figures", r"^dat train (.+)$")
    attacks = runs[0].evaluation
    assert [replace(made, evaluation=attacks) for made in weights] == runs[7:] and len(weights) == 2
    for made, swa_start in zip(weights, (None, 150), strict=True):
        assert (made.epochs, made.schedule.milestones, made.awp.gamma) == (200, (100, 150), 0.005)
        assert made.swa.start == swa_start


def test_every_row_without_is_an_ablation_of_its_own():
    rows = settings_of_commands("Rows without published figures")
    others = settings_of_commands("Rows with published figures")
    assert len(set(map(repr, [*rows, *others]))) == len(rows) + len(others)
