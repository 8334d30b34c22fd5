"""MkDocs' hook: adds the pages that are made from code, and makes links to files of the checkout work.

A link from a page to a file outside ``docs/``, written as it works in a checkout (``../src/lakehouse/flows.py``),
leads to a page of the site that shows the file. A file that is not there fails the build as any broken link does.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

sys.path[:0] = [
    str(path) for path in (Path(__file__).resolve().parents[2], Path(__file__).resolve().parents[2] / "src")
]

from mkdocs.structure.files import File, Files  # noqa: E402

from docs.made import alerts, errors, reference  # noqa: E402
from docs.made.text import ROOT  # noqa: E402

DOCS = ROOT / "docs"
RUNBOOKS = "runbooks.md"
_LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]+)((?:#[^)\s]*)?\))")
_LANGUAGES = {".py": "python", ".sql": "sql", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".java": "java"}


def on_config(config: Any) -> Any:
    """Put pages that the navigation does not name where they belong: decisions, and the other pages."""
    named = set(re.findall(r"[\w./-]+\.md", str(config.nav)))
    for section in config.nav:
        for title, listed in section.items():
            if title == "Subjects":
                listed += sorted(path.name for path in DOCS.glob("*.md") if path.name not in named)
            if title == "Decisions":
                listed += sorted(f"decisions/{path.name}" for path in DOCS.glob("decisions/*.md"))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the reference, the error catalogue, and files that pages link to."""
    made = reference.pages() | {"errors.md": errors.page()}
    written = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for uri, markdown in (made | written).items():
        for link in _LINK.finditer(markdown):
            if (path := _outside(uri, link[2])) is not None:
                made[_page(path)] = _shown(path)
    for uri, markdown in made.items():
        files.append(File.generated(config, uri, content=markdown))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to files of the checkout to their pages, and tell each runbook's rule."""
    uri = page.file.src_uri
    if uri == RUNBOOKS:
        markdown = alerts.with_facts(markdown)
    up = "../" * (len(PurePosixPath(uri).parts) - 1)

    def led(link: re.Match[str]) -> str:
        path = _outside(uri, link[2])
        return link[0] if path is None else f"{link[1]}{up}{_page(path)}{link[3]}"

    return _LINK.sub(led, markdown)


def _outside(uri: str, link: str) -> Path | None:
    """The file of the checkout that a link of a page names, if it is outside ``docs/`` and there."""
    path = (DOCS / uri).parent.joinpath(link).resolve()
    inside = path.is_relative_to(DOCS) or not path.is_relative_to(ROOT) or not path.is_file()
    return None if inside else path


def _page(path: Path) -> str:
    return f"source/{path.relative_to(ROOT).as_posix()}.md"


def _shown(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    fence = "`" * max(4, *(len(run) + 1 for run in re.findall(r"`+", text)), 4)
    name = path.relative_to(ROOT).as_posix()
    head = f"---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# {name}\n"
    return f"{head}\n{fence}{_LANGUAGES.get(path.suffix, 'text')}\n{text}\n{fence}\n"
