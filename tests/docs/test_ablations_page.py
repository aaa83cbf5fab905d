"""The page on DAT's ablations and the sweep of its rows say the same."""

import re

from dat.cli.train_flags import parse_train_flags
from dat.sweep.file import read_sweep
from tests.docs.pages import DOCS, ROOT

PAGE = (DOCS / "methods" / "ablations.md").read_text(encoding="utf-8")


def settings_of_commands(section: str) -> list:
    """The method's settings by the commands in the tables of a section, in their order."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return [parse_train_flags(words.split())[0].settings for words in re.findall(r"\| `dat train ([^`]+)` \|", text)]


def test_the_sweep_runs_the_rows_with_published_figures():
    sweep = read_sweep(ROOT / "examples" / "sweep_dat_ablations.yaml")
    runs = [run.recipe for run in sweep.runs if run.seed == sweep.seeds[0] and run.recipe.method == "dat"]
    rows = settings_of_commands("Rows with published figures")
    assert [recipe.settings for recipe in runs] == rows and len(set(map(repr, rows))) == len(rows) == 7


def test_every_row_without_is_an_ablation_of_its_own():
    rows = settings_of_commands("Rows without published figures")
    others = settings_of_commands("Rows with published figures")
    assert len(set(map(repr, [*rows, *others]))) == len(rows) + len(others)
