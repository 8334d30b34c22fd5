"""The application on a small lake and stores in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lakehouse.settings import Settings
from tests.unit.serving.graphql.graphql_fakes import Api, filled, serving


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Written once; tests that write have a lake of their own."""
    return filled(tmp_path_factory.mktemp("lake"))


@pytest.fixture
async def api(anyio_backend: str, lake: Settings) -> AsyncIterator[Api]:
    async with serving(lake) as made:
        yield made
