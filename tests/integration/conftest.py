"""Real servers for the integration tests: one stack for the session, in a home of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse import stack as servers
from lakehouse.settings import PROJECT, Settings


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of freshly started servers, with ports of their own beside any that run already; jars are shared."""
    jars = Path(os.environ.get("LAKEHOUSE_JARS", PROJECT / ".lakehouse" / "jars"))
    settings = Settings(home=tmp_path_factory.mktemp("home"), jars=jars)
    try:
        yield servers.up(settings, progress=False)
    finally:
        servers.down(settings)
