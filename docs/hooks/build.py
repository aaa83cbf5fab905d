"""The MkDocs hook: fills in what a page asks for by a comment on a line of its own.

    <!-- include: kernels/dat_kernels/README.md -->    a document of the repository
    <!-- method settings: dat -->                      settings of a method
    <!-- recipe fields -->                             every field of a recipe, by group
    <!-- recipe table -->                              the recipes beside each other
    <!-- method table -->                              the methods beside each other
    <!-- flags: train -->                              flags of a command that are not part of a recipe
    <!-- public names: dat -->                         the docstrings of what a package exports

Nothing here needs a network.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docs.hooks.commands import (
    METHODS,
    RECIPES,
    EvaluateFlags,
    profile_options,
    recipe,
    run_options,
    sweep_options,
)
from docs.hooks.included import with_links_to_pages
from docs.hooks.settings_tables import groups_of, options_of, settings_of, table, value_text

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PICTURES = {
    f"bench/results/{path.name}": f"measured/{path.name}" for path in (ROOT / "bench" / "results").glob("*.svg")
}
REQUEST = re.compile(r"^<!-- (include|method settings|flags|public names): (\S+) -->$", re.MULTILINE)
BARE_REQUEST = re.compile(r"^<!-- (recipe fields|recipe table|method table) -->$", re.MULTILINE)
LEFT_OVER = re.compile(r"^<!-- (?!not run: ).*-->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the pictures of bench/results into the site."""
    from mkdocs.structure.files import File  # the rest of this file serves without MkDocs

    for source, target in PICTURES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with everything filled in that it asks for."""
    filled = fill(markdown, page=page.file.src_uri, pages=included_documents(Path(config.docs_dir)))
    if LEFT_OVER.search(re.sub(r"^```.*?^```$", "", filled, flags=re.DOTALL | re.MULTILINE)):
        raise ValueError(f"{page.file.src_uri} asks for something that docs/hooks/build.py does not know")
    return filled


def fill(markdown: str, *, page: str, pages: dict[str, str]) -> str:
    """`markdown` of the page at `page` (from docs/) with its requests answered."""

    def answer(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        if kind == "include":
            text = (ROOT / name).read_text(encoding="utf-8")
            return with_links_to_pages(text, document=name, page=page, pages=pages, pictures=PICTURES)
        return _NAMED[kind](name)

    answered = REQUEST.sub(answer, markdown)
    return BARE_REQUEST.sub(lambda match: _BARE[match[1]](), answered)


def included_documents(docs: Path) -> dict[str, str]:
    """Document of the repository -> the page that shows it; looked up in the pages themselves."""
    found = {}
    for path in docs.rglob("*.md"):
        for kind, name in REQUEST.findall(path.read_text(encoding="utf-8")):
            if kind == "include":
                found[name] = path.relative_to(docs).as_posix()
    return found


def method_settings(name: str) -> str:
    """The settings of the method `name`, as flags of ``dat train``."""
    return table(settings_of(METHODS[name].settings), flag_prefix=f"--{name}.")


def method_table() -> str:
    """What each method is and how long it is trained on CIFAR."""
    lines = [
        "| method | what it is | epochs on CIFAR | learning rate drops at | best checkpoint by |",
        "|---|---|---|---|---|",
    ]
    for name, entry in METHODS.items():
        drops = (
            ", ".join(str(milestone) for milestone in entry.milestones)
            or recipe("cifar10-resnet18", name).schedule.kind
        )
        lines.append(
            f"| [`{name}`](../methods/{name}.md) | {entry.summary} | {entry.epochs} | {drops} | {entry.select_by} |"
        )
    return "\n".join(lines)


def recipe_table() -> str:
    """What sets the recipes apart, with the method dat."""
    lines = ["| recipe | data set | model | batch | epochs | epsilon | schedule |", "|---|---|---|---|---|---|---|"]
    for name in RECIPES:
        values = recipe(name)
        drops = f" at {value_text(values.schedule.milestones)}" if values.schedule.kind == "step" else ""
        lines.append(
            f"| `{name}` | {values.data.name} | {values.model.name} | {values.batch_size} | {values.epochs} | "
            f"{value_text(values.epsilon)} | {values.schedule.kind}{drops} |"
        )
    return "\n".join(lines)


def recipe_fields() -> str:
    """Every field of a recipe, group by group; defaults are those of cifar10-resnet18 with the method dat."""
    default = recipe("cifar10-resnet18")
    own = (setting for setting in settings_of(default) if "." not in setting.name)
    parts = [f"## The run itself\n\n{table(own)}"]
    for name, about, value in groups_of(default):
        parts.append(f"## {name}\n\n{about}\n\n{table(settings_of(value), flag_prefix=f'--{name}.')}")
    return "\n\n".join(parts)


def command_flags(command: str) -> str:
    """The flags of `command` that are not part of a recipe."""
    if command == "evaluate":
        return table(options_of(EvaluateFlags))
    options = {"train": run_options, "profile": profile_options, "sweep": sweep_options}
    return table(settings_of(options[command]()))


def public_names(package: str) -> str:
    """Requests to mkdocstrings for everything in the package's ``__all__``; of a module its public functions and classes."""
    module = importlib.import_module(package)
    parts = []
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if inspect.ismodule(value):
            own = getattr(value, "__all__", None) or [
                key
                for key, item in vars(value).items()
                if not key.startswith("_") and _defined_in(item, value.__name__)
            ]
            members = [(f"{package}.{name}.{key}", getattr(value, key)) for key in sorted(own)]
        else:
            members = [(f"{package}.{name}", value)]
        parts += [
            _docstring_of(shown, item) for shown, item in members if inspect.isroutine(item) or inspect.isclass(item)
        ]
    return "\n\n".join(parts)


def _docstring_of(shown: str, item: Any) -> str:
    """One request; `shown` is the name that a user imports, the docstring is where the object is defined."""
    unwrapped = inspect.unwrap(item)
    return f"::: {unwrapped.__module__}.{unwrapped.__qualname__}\n    options:\n      heading: {shown}"


def _defined_in(item: Any, module: str) -> bool:
    return (inspect.isfunction(item) or inspect.isclass(item)) and item.__module__ == module


_NAMED: dict[str, Callable[[str], str]] = {
    "method settings": method_settings,
    "flags": command_flags,
    "public names": public_names,
}
_BARE: dict[str, Callable[[], str]] = {
    "recipe fields": recipe_fields,
    "recipe table": recipe_table,
    "method table": method_table,
}
