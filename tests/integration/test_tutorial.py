"""The tutorial and what how-to pages mark, run block by block in one shell, as somebody who reads along would."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lakehouse import stack as servers
from lakehouse.settings import PROJECT, Settings
from tests.pages import DOCS, Block, Shell, blocks, missing, reader

pytestmark = [pytest.mark.integration, pytest.mark.long]
SETUP = "not run"
"""Marks what the reader's checkout is made by."""


def followed(setup: bool) -> list[Block]:
    """The tutorial, with the how-to pages before it says stop; those begin where the tutorial's reader would be."""
    tutorial = [b for b in blocks(DOCS / "tutorial.md") if b.language == "bash"]
    tutorial = [b for b in tutorial if setup or not b.marker.startswith(SETUP)]
    pages = sorted((DOCS / "how-to").glob("*.md"))
    return [*tutorial[:-1], *(b for page in pages for b in blocks(page) if b.marker == "run"), tutorial[-1]]


def follow(shell: Shell, listed: list[Block]) -> None:
    """Run blocks in turn; each ends as it is to, and prints what is shown below it."""
    for block in listed:
        code, printed = shell.run(block)
        where = f"{block.page.relative_to(PROJECT)}:{block.line}"
        assert code == block.exit_code, f"{where}\n{block.body}\n{printed}"
        assert not missing(block.shown, printed), f"{where}: {missing(block.shown, printed)} is not in\n{printed}"


@contextmanager
def at(folder: Path, env: dict[str, str], settings: Settings) -> Iterator[Shell]:
    """A shell, and whatever it started stopped in the end."""
    shell = Shell(folder, env)
    try:
        yield shell
    finally:
        shell.end()
        servers.down(settings)


def test_whoever_follows_the_tutorial_sees_what_it_shows(tmp_path: Path) -> None:
    jars = Path(os.environ.get("LAKEHOUSE_JARS", PROJECT / ".lakehouse" / "jars"))
    home, checkout = tmp_path / "home", tmp_path / "checkout"
    checkout.mkdir()
    with at(checkout, reader(home, jars, tmp_path, sys.executable), Settings(home=home, jars=jars)) as shell:
        follow(shell, followed(setup=False))


@pytest.mark.skipif(not os.environ.get("LAKEHOUSE_CLONE"), reason="LAKEHOUSE_CLONE=1 installs all anew from a clone")
def test_a_clone_and_the_tutorial_are_all_that_is_needed(tmp_path: Path) -> None:
    """What is committed, cloned and set up by the tutorial's own first block: nothing of this checkout is used."""
    ours = ("LAKEHOUSE_", "PYTHONPATH", "VIRTUAL_ENV", "JAVA_HOME", "SPARK_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env["PATH"] = os.pathsep.join(p for p in env["PATH"].split(os.pathsep) if p != str(Path(sys.executable).parent))
    listed = [
        replace(b, body=b.body.replace("<address of the repository>", str(PROJECT))) for b in followed(setup=True)
    ]
    with at(tmp_path, env, Settings(home=tmp_path / "lakehouse" / ".lakehouse")) as shell:
        follow(shell, listed)
