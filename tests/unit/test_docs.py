"""The docs: they build offline without a warning, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.made import alerts, errors, reference
from lakehouse.cli import app
from lakehouse.settings import PROJECT
from tests.pages import DOCS, Block, blocks, commands, missing, named, pages

CHECKOUT = [PROJECT / "conf/alerts.yaml", PROJECT / "conf/prometheus/rules.yml", PROJECT / "Makefile"]
SOURCES = [path for folder in ("src", "serving", "models") for path in sorted((PROJECT / folder).rglob("*.py"))]
HELD_OUT = re.compile(r"\{[^{}]*\}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Links and anchors within it are MkDocs' to check: `validation` in mkdocs.yml."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, "\n".join(
        line for line in done.stderr.splitlines() if "WARNING" in line or "Error" in line
    )
    return folder


class _Loads(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("stylesheet", "preconnect", "preload", "icon"):
            self.found.append(given.get("href") or "")
        if tag in ("script", "img", "iframe"):
            self.found.append(given.get("src") or "")


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        reader = _Loads()
        reader.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in reader.found if re.match(r"(https?:)?//", url)], page
    styles = [path for path in site.rglob("*.css") if re.search(r"url\(\s*[\"']?(https?:)?//", path.read_text())]
    assert not styles


def test_the_site_has_every_page_of_the_navigation_and_every_decision(site: Path) -> None:
    written = [path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")]
    assert not [
        path for path in (*written, *map(Path, ("reference/cli.html", "errors.html"))) if not (site / path).exists()
    ]


# --- commands ------------------------------------------------------------------------------------------------------


def parse(arguments: list[str]) -> None:
    """Parse a command line as `lakehouse` does, without running it; raises where it cannot be parsed."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("lakehouse", list(arguments))
    while hasattr(command, "commands") and (rest := [*context._protected_args, *context.args]):
        _, command, rest = command.resolve_command(context, rest)
        context = command.make_context(command.name, rest, parent=context)


def known(words: list[str]) -> list[str]:
    """The words of a command named in a text that are neither a verb nor an option of it: placeholders are let be."""
    command: Any = typer.main.get_command(app)
    wrong = []
    if words[0].split("|")[0] not in command.commands:
        return words[:1]
    for word in words:
        verb = word.split("|")[0]
        if hasattr(command, "commands") and verb in command.commands:
            command = command.commands[verb]
        elif re.fullmatch(r"--[a-z-]+", word.partition("=")[0]) and word != "--":
            options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
            wrong += [] if word.partition("=")[0] in options else [word]
    return wrong


def shell_blocks() -> list[Block]:
    """Blocks that hold commands: what is in no language of its own may."""
    listed = (block for page in pages() for block in blocks(page) if block.language in ("", "bash", "sh"))
    return [block for block in listed if re.search(r"(^|[\s/(])lakehouse [a-z-]", block.body, re.M)]


def test_every_command_line_of_the_docs_can_be_parsed() -> None:
    lines = [(block, line) for block in shell_blocks() for line in commands(block.body)]
    assert len(lines) > 80
    for block, line in lines:
        try:
            parse(line)
        except typer.Exit:
            pass  # --help
        except Exception as error:
            pytest.fail(f"{block.page.relative_to(PROJECT)}:{block.line}: lakehouse {' '.join(line)}: {error}")


@pytest.mark.parametrize("path", [*pages(), *CHECKOUT], ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_command_that_a_text_names_exists(path: Path) -> None:
    texts = named(path.read_text(encoding="utf-8"))
    assert not [text for text in texts if known(text.split())]


def test_every_command_that_an_error_or_docstring_names_exists() -> None:
    wrong: dict[str, list[list[str]]] = {}
    for path in SOURCES:
        text = re.sub(r"\"\s*\n\s*f?\"", "", path.read_text(encoding="utf-8")).replace("``", "`")
        found = [words for words in (HELD_OUT.sub("X", one).split() for one in named(text)) if known(words)]
        wrong |= {str(path.relative_to(PROJECT)): found} if found else {}
    assert not wrong


def test_every_target_of_make_that_the_docs_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))
    for page in pages():
        asked = {target for line in re.findall(r"`make ([a-z -]+)`", page.read_text()) for target in line.split()}
        assert asked <= targets, page


@pytest.mark.parametrize(
    ("shell", "found"),
    [
        ("TOKEN=$(.venv/bin/lakehouse token --scope a)  # why", [["token", "--scope", "a"]]),
        ('lakehouse sql "select (1) | 2" | head; lakehouse down', [["sql", "select (1) | 2"], ["down"]]),
        ('echo "$(lakehouse token --keys)"', [["token", "--keys"]]),
        ("lakehouse up \\\n  --servers\nlakehouse wait > f", [["up", "--servers"], ["wait"]]),
        ("ls lakehouse-site; cd lakehouse # is not\n  audience: lakehouse", []),
        ("python <<'P'\nit's = lakehouse\nP\nlakehouse down", [["down"]]),
    ],
)
def test_commands_are_found_in_a_shells_lines(shell: str, found: list[list[str]]) -> None:
    assert list(commands(shell)) == found


def test_a_verb_or_option_that_is_not_there_is_found() -> None:
    assert known(["down", "--programs"]) == ["--programs"]
    assert known(["quarantine", "ls", "--summary"]) == ["--summary"]
    assert known(["fly"]) == ["fly"]
    with pytest.raises(Exception, match="programs"):
        parse(["down", "--programs"])


def test_shown_output_is_matched_in_order_with_gaps() -> None:
    printed = "a   1\nb 2 at 12:00:01\nc\n"
    assert missing("a 1\nb … at …\nc", printed) == []
    assert missing("c\na 1", printed) == ["a 1"]
    assert missing("b 3", printed) == ["b 3"]


# --- what is written by hand beside what is made ---------------------------------------------------------------------


def test_every_error_has_a_remedy_and_every_remedy_an_error() -> None:
    told = errors.remedies()
    assert set(told["exceptions"]) == set(errors.exceptions())
    assert set(told["problems"]) == set(errors.problems())


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    written = alerts.headings((DOCS / "runbooks.md").read_text())
    assert sorted(written) == sorted([*alerts.rules(), *alerts.prometheus()])


def test_every_setting_says_what_it_means() -> None:
    assert not [path for path, *_, meaning in reference.setting_rows() if not meaning]


def test_every_table_says_what_it_means_and_who_writes_it() -> None:
    assert not [name for name in reference.writers() if not reference.meaning(name)]


def test_tests_that_the_concepts_name_exist() -> None:
    named = re.findall(r"\[`(test_\w+)`\]\(\.\./([\w/.]+)\)", (DOCS / "concepts.md").read_text())
    assert len(named) > 20
    assert not [test for test, path in named if f"def {test}(" not in (PROJECT / path).read_text()]


def test_both_readmes_have_the_same_commands_and_sections() -> None:
    english, korean = (PROJECT / name for name in ("README.md", "README.ko.md"))

    def said(page: Path) -> list[str]:
        lines = [line.partition("  #")[0].strip() for block in blocks(page) for line in block.body.splitlines()]
        return [line for line in lines if re.match(r"(\.venv|make|curl|echo|export|TOKEN|spark-submit|-d)", line)]

    assert said(korean) == said(english)
    assert len(re.findall("^## ", korean.read_text(), re.M)) == len(re.findall("^## ", english.read_text(), re.M))


def test_every_how_to_stands_in_the_navigation_and_in_its_index() -> None:
    there = {path.name for path in (DOCS / "how-to").glob("*.md")}
    assert set(re.findall(r"how-to/([\w-]+\.md)", (PROJECT / "mkdocs.yml").read_text())) == there
    assert set(re.findall(r"\(([\w-]+\.md)\)", (DOCS / "how-to/index.md").read_text())) == there - {"index.md"}
