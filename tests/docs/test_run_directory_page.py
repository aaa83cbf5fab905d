"""The page on the run directory names every file and every field that a run writes, and no other."""

import json
import re
from pathlib import Path

import pytest

from dat.cli import main
from tests.docs.pages import DOCS

PAGE = (DOCS / "reference" / "run-directory.md").read_text(encoding="utf-8")
FLAGS = (
    "--epochs 1 --limit-train 48 --batch-size 16 --model.width 4 --data.validation 20 --log-every 1 "
    "--evaluation.attacks natural --evaluation.limit 20 --device cpu --progress silent"
)


def first_column(text: str) -> set[str]:
    """What stands in backticks in the first column of the tables in `text`."""
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def section(heading: str) -> str:
    return re.split(r"^## ", PAGE.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]


@pytest.fixture(scope="module", params=["dat", "trades", "dajat"])
def run(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / request.param
    assert main(["train", "digits-resnet", "--method", request.param, *FLAGS.split(), "--run-dir", str(path)]) == 0
    return path


def test_files(run):
    written = {path.name + "/" * path.is_dir() for path in run.iterdir() if not path.name.startswith(".")}
    assert written == first_column(PAGE.split("## config.json")[0])


def test_fields_of_config_and_summary(run):
    for name in ("config.json", "summary.json"):
        assert set(json.loads((run / name).read_text())) == first_column(section(name)), name


def test_fields_of_metrics(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    every_step, every_epoch = section("metrics.jsonl").split("at the end of every epoch")
    terms = {
        "dat": {"clean_loss", "mixed_loss", "js"},
        "trades": {"cross_entropy", "kl"},
        "mart": {"boosted", "weighted_kl"},
        "st": {"cross_entropy", "squeeze"},
        "sar": {"cross_entropy", "spectral"},
        "dajat": {"cross_entropy", "kl", "js", "epsilon"},
    }
    others = set().union(*terms.values()) - terms[run.name]
    assert set(rows[0]) == first_column(every_step) - others
    assert {name for name in rows[-1] if name.removeprefix("epoch_") not in terms[run.name]} == first_column(
        every_epoch
    )
