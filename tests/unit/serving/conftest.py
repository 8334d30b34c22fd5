"""The application on fakes, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx2
import pytest

from lakehouse.sources.delivery import Delivery
from serving.app import create_app
from serving.auth import issue
from tests.unit.serving.fakes import AWAY, KEYS, Broker, Remembered


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def answers() -> Remembered:
    return Remembered()


@pytest.fixture
async def api(anyio_backend: str, broker: Broker, answers: Remembered) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with a token that may write events."""
    app = create_app(AWAY, Delivery(lambda: broker, timedelta(seconds=5)), answers, KEYS)
    token = issue(KEYS, "tester", ["write:events"], timedelta(hours=1))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app),
            base_url="http://localhost",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        ) as client,
    ):
        yield client
