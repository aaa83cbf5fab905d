"""The pages as their tests read them: code blocks, command lines, flags and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "kernels").rglob("README.md"))]
COMMANDS = ("dat", "torchrun", "make", "python", "pip")

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block; `not_run` is the reason that stands above one of Python that the tests must not run."""

    language: str
    text: str
    not_run: str | None


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document."""
    found = _FENCE.finditer(path.read_text(encoding="utf-8"))
    return [Block(language=match["language"], text=match["text"], not_run=match["reason"]) for match in found]


def prose(path: Path) -> str:
    """The document without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def command_lines(path: Path) -> list[list[str]]:
    """The words of every command line in a block of shell, or indented by four spaces; continued lines are joined."""
    shell = [block.text for block in blocks(path) if block.language in ("bash", "shell", "console", "sh")]
    indented = [line[4:] for line in prose(path).splitlines() if line.startswith("    ")]
    text = "\n".join([*shell, *indented]).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.split(" ")[0] in COMMANDS]
    return [shlex.split(line, comments=True) for line in lines]


def inline_code(path: Path) -> list[str]:
    """What stands between single backticks in the prose, on one line."""
    text = "\n".join(line for line in prose(path).splitlines() if not line.startswith("    "))
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def links(path: Path) -> list[str]:
    """Targets of the relative links and pictures of a document, code left out."""
    text = re.sub(r"`[^`]*`", "", prose(path))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:|#", target)]
