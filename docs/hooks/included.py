"""Documents of the repository shown as pages: read where they stand, their links bent to where the pages are."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def with_links_to_pages(
    markdown: str, *, document: str, page: str, pages: Mapping[str, str], pictures: Mapping[str, str]
) -> str:
    """`markdown`, the text of `document`, as it has to read on `page`.

    A link to a document that is a page leads to the page, a picture to its copy in the site; a link to any other file of the
    repository becomes the file's path, for the site holds no sources.

    Args:
        document: path of the text, from the repository's root.
        page: path of the page that shows it, from docs/.
        pages: document -> page, for every document that is shown.
        pictures: file of the repository -> its path in the site.

    Raises:
        ValueError: a picture that the site has no copy of.
    """

    def bend(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(document), target))
        if mark:
            if file not in pictures:
                raise ValueError(f"{document} shows {file}, which the site has no copy of; add it to its pictures")
            return f"![{text}]({_relative(pictures[file], page)})"
        if file in pages:
            return f"[{text}]({_relative(pages[file], page)}{anchor})"
        return f"`{file}`" if text.strip("`") in (file, target) else f"{text} (`{file}`)"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(bend, part) for part in parts)


def _relative(target: str, page: str) -> str:
    return posixpath.relpath(target, PurePosixPath(page).parent.as_posix())
