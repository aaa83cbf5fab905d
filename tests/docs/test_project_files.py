"""Files beside the code that tools and people read: citation, changelog, hooks, workflow, Makefile."""

import re
import subprocess
import tomllib

import pytest

from tests.docs.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(name: str):
    yaml = pytest.importorskip("yaml", reason="reads YAML: pip install 'dat-engine[dev]'")
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_citation_names_this_version_and_the_paper():
    citation = read_yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == PROJECT["version"] and citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    page = " ".join((ROOT / "docs" / "methods" / "dat.md").read_text(encoding="utf-8").split())
    assert paper["title"] in page and paper["url"] in page
    assert ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"]) in page


def test_changelog_has_a_section_for_what_is_to_come_and_for_this_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" and any(heading.split()[0] == PROJECT["version"] for heading in headings)


def test_hooks_are_local_and_run_what_make_lint_runs():
    configuration = read_yaml(".pre-commit-config.yaml")
    assert [repository["repo"] for repository in configuration["repos"]] == ["local"]
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    for hook in hooks:
        command = hook["entry"].replace(" --force-exclude", "").replace(".venv/bin", "$(BIN)")
        assert command in lint, f"make lint does not run {hook['entry']}"
    assert len(hooks) == len(lint.splitlines())


def test_workflow_runs_what_a_developer_runs_on_every_python_that_is_named():
    job = read_yaml(".github/workflows/ci.yml")["jobs"]["check"]
    assert job["steps"][-1]["run"] == ".ci/run"
    named = {text.rsplit(" ", 1)[1] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)}
    assert set(job["strategy"]["matrix"]["python"]) == named


def test_make_alone_prints_every_target_and_nothing_runs():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    printed = subprocess.run(["make", "--silent"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([\w-]+) ", printed, re.MULTILINE)) == set(targets) - {"help"}


def test_installing_is_announced_and_not_silent():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--quiet" not in text
    for target in re.findall(r"^\$\(VENV\)/installed.*\n\t(.*)", text, re.MULTILINE):
        assert target.startswith('@echo "Installing'), target
