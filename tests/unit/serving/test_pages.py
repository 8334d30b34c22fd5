"""The built pages as they are served: a folder in, answers out."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from serving import pages, problems

pytestmark = pytest.mark.anyio
PAGE = b"<!doctype html><title>lakehouse</title>"
SCRIPT = b"console.log(1);" * 100


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "index-abc.js").write_bytes(SCRIPT)
    (tmp_path / "assets" / "notes.txt").write_text("not part of the pages")
    (tmp_path / "index.html").write_bytes(PAGE)
    (tmp_path / "secret.js").write_text("above the assets")
    return tmp_path


@pytest.fixture
async def client(dist: Path, anyio_backend: str) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    problems.install(app)
    app.include_router(pages.router(dist))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1") as found:
        yield found


async def test_the_page_is_asked_for_anew_and_its_parts_never_again(client: httpx2.AsyncClient) -> None:
    page, part = await client.get("/"), await client.get("/assets/index-abc.js")
    assert (page.status_code, page.content, page.headers["cache-control"]) == (200, PAGE, "no-cache")
    assert (part.status_code, part.content) == (200, SCRIPT)
    assert part.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert part.headers["content-type"] == "text/javascript; charset=utf-8"


async def test_nothing_inline_and_nothing_from_elsewhere_may_run(client: httpx2.AsyncClient) -> None:
    for path in ("/", "/assets/index-abc.js"):
        headers = (await client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy and "http" not in policy and "default-src 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"


async def test_a_page_that_is_known_is_not_sent_again(client: httpx2.AsyncClient, dist: Path) -> None:
    tag = (await client.get("/")).headers["etag"]
    again = await client.get("/", headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    (dist / "index.html").write_bytes(PAGE + b"<p>new")
    new = await client.get("/", headers={"If-None-Match": tag})
    assert (new.status_code, new.content) == (200, PAGE + b"<p>new")


async def test_what_is_packed_is_packed_only_for_who_takes_it(client: httpx2.AsyncClient) -> None:
    async def asked(accepted: str) -> tuple[str | None, bytes]:
        request = client.build_request("GET", "/assets/index-abc.js", headers={"Accept-Encoding": accepted})
        answer = await client.send(request, stream=True)
        raw = b"".join([part async for part in answer.aiter_raw()])
        return answer.headers.get("content-encoding"), raw

    for accepted in ("gzip", "br, gzip;q=0.5", "*"):
        coding, raw = await asked(accepted)
        assert coding == "gzip" and gzip.decompress(raw) == SCRIPT and len(raw) < len(SCRIPT)
    for accepted in ("identity", "br", "gzip;q=0", "gzip; q = 0.0"):
        assert await asked(accepted) == (None, SCRIPT)


async def test_head_has_no_body(client: httpx2.AsyncClient) -> None:
    answer = await client.head("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../secret.js", "/assets/..%2fsecret.js", "/assets/%2e%2e%2fsecret.js", "/assets/..%5csecret.js",
        "/assets/notes.txt", "/assets/", "/assets/x%00.js", "/assets//etc/passwd", "/assets/index.html", "/secret.js",
    ],
)  # fmt: skip
async def test_only_what_was_built_as_a_page_can_be_had(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == problems.MEDIA_TYPE


async def test_pages_that_are_not_built_say_how_to_build_them(client: httpx2.AsyncClient, dist: Path) -> None:
    (dist / "index.html").unlink()
    for path in ("/", "/assets/index-abc.js"):
        answer = await client.get(path)
        assert answer.status_code == 503
        assert "make dashboard" in answer.json()["detail"]
    (dist / "index.html").write_bytes(PAGE)
    assert (await client.get("/")).status_code == 200
