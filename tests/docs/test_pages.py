"""What the pages say is true: their Python runs, their commands parse, their links lead somewhere, the site builds alone."""

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dat.evaluation.attacks import REGISTRY, TITLES
from dat_engine.data.augmentations.registry import AUGMENTATIONS
from dat_engine.data.datasets.registry import SOURCES
from docs.hooks.build import PICTURES
from docs.hooks.commands import COMMANDS as DAT_COMMANDS
from docs.hooks.commands import (
    METHODS,
    RECIPES,
    EvaluateFlags,
    parse_command,
    profile_options,
    recipe,
    run_options,
    sweep_options,
)
from docs.hooks.settings_tables import options_of, settings_of
from tests.docs.pages import DOCS, DOCUMENTS, PAGES, ROOT, blocks, command_lines, inline_code, links

PYTHON_PAGES = [path for path in PAGES if any(block.language == "python" for block in blocks(path))]
NOT_OURS = {
    "--standalone",
    "--nproc-per-node",
    "--max-restarts",
    "--index-url",
    "--logdir",
    "--help",
    "--check",
    "--method",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def registries_as_before():
    """What a page adds to a registry goes when the page has been run."""
    registries = (METHODS, REGISTRY, TITLES, SOURCES, AUGMENTATIONS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.mark.usefixtures("registries_as_before")
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name_of)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page in order, sharing names, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(page):
        if block.language != "python" or block.not_run is not None:
            continue
        exec(compile(block.text, name_of(page), "exec"), names)
    assert names


def test_only_python_that_says_why_is_not_run():
    reasons = [
        block.not_run for page in PAGES for block in blocks(page) if block.language == "python" and block.not_run
    ]
    assert all(len(reason.split()) > 2 for reason in reasons)
    assert any(block.language == "python" for page in PAGES for block in blocks(page))


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if command_lines(path)], ids=name_of)
def test_command_lines_parse(document):
    for words in command_lines(document):
        check_command(words)


@pytest.mark.parametrize(
    "line",
    [
        "dat train cifar10-resnet18 --epoch 3",
        "dat train cifar11",
        "dat train cifar10-resnet18 --method pgd-at --dat.beta 6",
        "dat train --resume --run-dir runs/a --epoch 3",
        "dat train --resume",
        "dat train --config runs/a/config.json --resume --run-dir runs/a",
        "dat train --config runs/a/config.json --sed 1",
        "dat evaluate runs/a --attacks pgd21",
        "dat profile cifar10-resnet18 --methods dat,dat",
        "dat sweep",
        "dat sweep sweep.yaml --executer local",
        "dat sweep examples/sweep_nothing.yaml",
        "dat polish",
        "make coffee",
        "python -m bench.nothing",
        "python -m bench.step_time --no-such-flag",
        "pip install 'dat-engine[everything]'",
        "torchrun --standalone -m dat train cifar10-resnet18 --run-folder a",
    ],
)
def test_a_wrong_command_line_is_noticed(tmp_path, line):
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{line}\n```\n")
    (words,) = command_lines(page)
    with pytest.raises((ValueError, AssertionError)):
        check_command(words)


def check_command(words: list[str]) -> None:
    program, *rest = words
    if program == "dat":
        parse_command(rest)
    elif program == "torchrun":
        assert rest[rest.index("-m") + 1] == "dat"
        parse_command(rest[rest.index("-m") + 2 :])
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), f"make {rest}: there are {targets}"
    elif program == "python":
        check_module(rest)
    elif program == "pip":
        check_extras(rest)


def check_module(words: list[str]) -> None:
    """``-m bench.<module>`` exists, and its source has every flag that is given."""
    assert words[0] == "-m" and words[1].startswith("bench.")
    folder = ROOT / Path(*words[1].split("."))
    source = folder / "__main__.py" if folder.is_dir() else folder.with_suffix(".py")
    assert source.exists(), f"there is no {words[1]}"
    for flag in (word.split("=")[0] for word in words[2:] if word.startswith("--")):
        assert f'"{flag}"' in source.read_text(), f"{words[1]} has no flag {flag}"


def check_extras(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        for extra in re.findall(r"\[([\w,-]+)\]", word):
            assert set(extra.split(",")) <= set(extras), f"{word}: there are {sorted(extras)}"


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every flag of every command, those that switch something off included."""
    names = [setting.name for setting in options_of(EvaluateFlags)]
    all_options = (run_options(), profile_options(), sweep_options())
    names += [setting.name for options in all_options for setting in settings_of(options)]
    for method, entry in METHODS.items():
        names += [f"{method}.{setting.name}" for setting in settings_of(entry.settings)]
        names += [setting.name for name in RECIPES for setting in settings_of(recipe(name, method))]
    off = [re.sub(r"([^.]+)$", r"no-\1", name) for name in names]
    return {f"--{name}" for name in [*names, *off]} | NOT_OURS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_flags_and_commands_named_in_the_text_exist(page, flags):
    source = "".join(path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    for code in inline_code(page):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code):
            assert flag in flags or f'"{flag}"' in source or flag.endswith((".b", ".no-b")), f"{flag} in `{code}`"
        if match := re.match(r"dat ([a-z]+)\b", code):
            assert match[1] in DAT_COMMANDS, code
            words = code.split()[1:]
            if len(words) > 1 and not words[1].startswith("-") and not re.search(r"[A-Z]{2}|…", code):
                parse_command(words)


@pytest.mark.parametrize("page", ["index.md", "reference/recipes.md"])
def test_lists_of_methods_name_every_one(page):
    leads_to = {Path(link.partition("#")[0]).name for link in links(DOCS / page)}
    assert not {f"{method}.md" for method in METHODS} - leads_to


def test_paths_named_in_contributing_exist():
    """Those from the root: with a folder in them; of ``dat/methods/<name>.py`` the folder."""
    rooms = {path.name for path in ROOT.iterdir()}
    named = [code for code in inline_code(ROOT / "CONTRIBUTING.md") if code.split("/")[0] in rooms and " " not in code]
    assert len(named) > 20
    for code in named:
        path = ROOT / code.split("<")[0]
        assert path.exists(), f"CONTRIBUTING.md names {code}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_lead_to_files(document):
    for target in links(document):
        file = (document.parent / target.split("#")[0]).resolve()
        inside = file.relative_to(DOCS).as_posix() if file.is_relative_to(DOCS) else None
        assert file.exists() or inside in PICTURES.values(), f"{name_of(document)} links to {target}"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it; no proxy, no network is needed."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the site is built by MkDocs: pip install 'dat-engine[docs]'")
    folder = tmp_path_factory.mktemp("site")
    outcome = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return folder


def test_the_site_builds_without_a_warning(site):
    assert {path.relative_to(DOCS).with_suffix(".html") for path in PAGES} <= {
        path.relative_to(site) for path in site.rglob("*.html")
    }


class Loaded(HTMLParser):
    """Collects what a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.classes |= set(values.get("class", "").split())
        if tag == "link" and values.get("rel") != "canonical":
            self.addresses.append(values.get("href", ""))
        self.addresses += [
            values[name] for name in ("src", "srcset", "poster", "data") if name in values and tag != "a"
        ]


def foreign(address: str) -> bool:
    return re.match(r"(https?:)?//", address) is not None


def test_the_site_fetches_nothing_from_another_host(site):
    for path in site.rglob("*.html"):
        page = Loaded()
        page.feed(path.read_text(encoding="utf-8"))
        assert page.addresses and not [address for address in page.addresses if foreign(address)], path
        assert "mermaid" not in page.classes  # the theme would fetch its renderer
    for path in site.rglob("*.css"):
        addresses = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", path.read_text(encoding="utf-8"))
        assert not [found for pair in addresses for found in pair if foreign(found)], path


@pytest.mark.parametrize("method", METHODS)
def test_a_method_page_shows_every_setting_with_its_default(site, method):
    text = re.sub(r"<[^>]+>", "", (site / "methods" / f"{method}.html").read_text(encoding="utf-8"))
    for setting in settings_of(METHODS[method].settings):
        assert re.search(rf"--{method}\.{setting.name}\s.*?\n{re.escape(setting.default)}\s", text, re.S), setting


def test_the_api_page_shows_every_public_name(site):
    text = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for package in ("dat", "dat_kernels"):
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value):
                shown = rf"{package}\.{name}\." if inspect.ismodule(value) else rf"{package}\.{name}\b"
                assert re.search(shown, text), name
