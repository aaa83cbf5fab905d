"""The README's GPU table: that of the newest result, or the sentence that there is none."""

import json

import pytest

from bench.results_table import BEGIN, END, NOT_MEASURED, main, render, with_table


def result(date: str, **changes) -> dict:
    return {
        "kind": "gpu_acceptance",
        "rehearsal": False,
        "sections_chosen": [],
        "environment": {
            "date": date,
            "versions": {"torch": "2.11.0+cu130", "triton": "3.6.0"},
            "git_commit": "0123456789abcdef",
            "hardware": {"gpu": "NVIDIA H200"},
        },
        "targets": [
            {
                "figure": "epoch",
                "bound": 8.0,
                "sense": "at most",
                "state": "met",
                "value": 6.54321,
                "unit": "s",
                "note": "",
            },
            {
                "figure": "mix",
                "bound": 60.0,
                "sense": "at least",
                "state": "withheld",
                "value": None,
                "unit": None,
                "note": "gate failed: mix 32",
            },
        ],
        "figures": [{"name": "peak memory: DAT", "value": 9.87, "unit": "GiB", "note": ""}],
        "gates": [
            {"name": "step", "status": "passed", "detail": ""},
            {"name": "mix 32", "status": "failed", "detail": "error 1"},
        ],
        **changes,
    }


@pytest.fixture
def files(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nrest\n")
    return readme, results


def run(files, *words: str) -> int:
    readme, results = files
    return main([*words, "--readme", str(readme), "--results", str(results)])


def test_the_readme_of_this_repository_shows_the_newest_result():
    assert main(["--check"]) == 0


def test_without_a_result_it_says_not_measured(files):
    assert run(files, "--check") == 1
    assert run(files) == 0
    assert run(files, "--check") == 0
    assert files[0].read_text() == f"# Title\n\n{BEGIN}\n{NOT_MEASURED}\n{END}\n\nrest\n"


def test_the_newest_whole_result_is_shown(files):
    readme, results = files
    (results / "old.json").write_text(json.dumps(result("2026-01-01T00:00:00+00:00")))
    (results / "new.json").write_text(json.dumps(result("2026-02-01T00:00:00+00:00")))
    (results / "part.json").write_text(json.dumps(result("2026-03-01T00:00:00+00:00", sections_chosen=["dali"])))
    (results / "rehearsed.json").write_text(json.dumps(result("2026-04-01T00:00:00+00:00", rehearsal=True)))
    (results / "cut.json").write_text(json.dumps(result("2026-05-01T00:00:00+00:00", complete=False)))
    (results / "other.json").write_text("{}")
    (results / "list.json").write_text("[]")
    assert run(files) == 0
    text = readme.read_text()
    assert "NVIDIA H200, torch 2.11.0+cu130" in text and "2026-02-01" in text and "bench/results/new.json" in text
    assert "| epoch | 6.54 s | at most 8 | met |" in text
    assert "| mix | withheld | at least 60 | gate failed: mix 32 |" in text
    assert "| peak memory: DAT | 9.87 GiB | | |" in text
    assert "1 correctness gates passed, 1 did not." in text and "- failed: mix 32: error 1" in text
    assert run(files, "--check") == 0


def test_a_readme_without_markers_is_named(files, capsys):
    files[0].write_text("nothing")
    assert run(files) == 2
    assert "needs the lines" in capsys.readouterr().err
    with pytest.raises(ValueError, match="once and in this order"):
        with_table(f"{END}{BEGIN}", render(None))
