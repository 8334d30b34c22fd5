"""A real browser on the built pages, over the fake API; or over a real one that the environment names.

``LAKEHOUSE_BROWSER_URL`` and ``LAKEHOUSE_BROWSER_TOKEN`` name a running API and a token with all scopes of a reader;
what needs the fake's world is then skipped. Screenshots are kept in ``tests/browser/artefacts``.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from serving import pages
from serving.auth import issue
from tests.browser.fake_api import KEYS, World, create

SCOPES = ["read:metrics", "read:tables", "read:users", "read:logs", "read:pii"]
ARTEFACTS = Path(__file__).parent / "artefacts"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb",
]  # fmt: skip
TIMEOUT_MS = 15_000
KEY = "lakehouse.token"
"""Of the tab's storage, where the pages keep the token."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


def token(*scopes: str) -> str:
    """A token of the fake API."""
    return issue(KEYS, "tester", list(scopes or SCOPES), timedelta(days=30))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: `make browser` installs it")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@dataclass(frozen=True)
class Site:
    """Where the pages are, and a token that may read all of it; ``world`` is None where the API is a real one."""

    url: str
    token: str
    world: World | None


@pytest.fixture
def site() -> Iterator[Site]:
    if url := os.environ.get("LAKEHOUSE_BROWSER_URL"):
        yield Site(url.rstrip("/"), os.environ["LAKEHOUSE_BROWSER_TOKEN"], None)
        return
    if not (pages.DIST / "index.html").exists():
        pytest.skip("the pages are not built: `make dashboard` builds them (it needs npm)")
    world = World()
    config = uvicorn.Config(create(world), log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", token(), world)
    world.drop()
    server.should_exit = True
    thread.join(10)
    listening.close()


@pytest.fixture
def world(site: Site) -> World:
    """What a test may change; only the fake API has it."""
    if site.world is None:
        pytest.skip("needs the fake API: a real one is not to be broken")
    return site.world


@dataclass
class Watch:
    """What a page did that it must not do; a test says which answers it expects to fail."""

    origin: str
    expected: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("console", lambda said: self._said(said.type, said.text))
        page.on("pageerror", lambda error: self.wrong.append(f"uncaught: {error}"))
        page.on("request", lambda request: self._asked(request.url))

    def _said(self, kind: str, text: str) -> None:
        if kind not in ("error", "warning"):
            return
        if not any(f"status of {status}" in text for status in self.expected):
            self.wrong.append(f"console {kind}: {text}")

    def _asked(self, url: str) -> None:
        found = urlsplit(url)
        if found.scheme not in ("data", "blob") and f"{found.scheme}://{found.netloc}" != self.origin:
            self.wrong.append(f"a request that leaves the origin: {url}")


@pytest.fixture
def watch(site: Site) -> Iterator[Watch]:
    """Fails a test whose page asked another origin, or said an error that the test did not expect."""
    found = Watch(site.url)
    yield found
    assert found.wrong == []


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, site: Site, watch: Watch) -> Iterator[Open]:
    """Opens the pages: ``open_page("services", width=375, theme="dark", language="ko-KR")``."""
    contexts: list[BrowserContext] = []

    def opened(
        route: str = "",
        *,
        width: int = 1440,
        height: int = 900,
        theme: Any = "light",
        language: str = "en-GB",
        token: str | None = site.token,
        zone: str = "Asia/Seoul",
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, locale=language, timezone_id=zone,
            reduced_motion="reduce",
        )  # fmt: skip
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        watch.follow(page)
        if site.world is not None:
            page.clock.set_fixed_time(site.world.now)
        if token and route:
            page.add_init_script(f"sessionStorage.getItem('{KEY}') ?? sessionStorage.setItem('{KEY}', '{token}')")
        page.goto(f"{site.url}/#/{route}" if route else f"{site.url}/#token={token}" if token else site.url)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def shot() -> Callable[[Page, str], Path]:
    """Keeps a picture of all of a page."""
    ARTEFACTS.mkdir(exist_ok=True)

    def keep(page: Page, name: str) -> Path:
        path = ARTEFACTS / f"{name}.png"
        page.screenshot(path=path, full_page=True)
        return path

    return keep
