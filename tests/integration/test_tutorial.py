"""The tutorial and what how-to pages mark, run block by block in one shell, as somebody who reads along would."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse import stack as servers
from lakehouse.settings import PROJECT, Settings
from tests.pages import DOCS, Block, Shell, blocks, missing, reader

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    jars = Path(os.environ.get("LAKEHOUSE_JARS", PROJECT / ".lakehouse" / "jars"))
    home, checkout = tmp_path / "home", tmp_path / "checkout"
    checkout.mkdir()
    shell = Shell(checkout, reader(home, jars, tmp_path, sys.executable))
    try:
        yield shell
    finally:
        shell.end()
        servers.down(Settings(home=home, jars=jars))


def followed() -> list[Block]:
    """The tutorial, with the how-to pages before it says stop; those begin where the tutorial's reader would be."""
    tutorial = [b for b in blocks(DOCS / "tutorial.md") if b.language == "bash" and not b.marker.startswith("not run")]
    pages = sorted((DOCS / "how-to").glob("*.md"))
    return [*tutorial[:-1], *(b for page in pages for b in blocks(page) if b.marker == "run"), tutorial[-1]]


def test_whoever_follows_the_tutorial_sees_what_it_shows(shell: Shell) -> None:
    for block in followed():
        code, printed = shell.run(block)
        where = f"{block.page.relative_to(PROJECT)}:{block.line}"
        assert code == block.exit_code, f"{where}\n{block.body}\n{printed}"
        assert not missing(block.shown, printed), f"{where}: {missing(block.shown, printed)} is not in\n{printed}"
