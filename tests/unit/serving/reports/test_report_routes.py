"""``/reports`` over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from lakehouse.settings import Hdfs, Settings
from lakehouse.sources.lake import LakeError
from serving import problems
from serving.auth import issue
from serving.report.made import Reports
from serving.report.pdf import PdfError
from serving.report.routes import KeptReport, router
from serving.rest.answers import Collection
from tests.unit.serving.fakes import KEYS
from tests.unit.serving.reports import week
from tests.unit.serving.reports.week import DATE, NOW

pytestmark = pytest.mark.anyio


def client(reports: Reports, *scopes: str) -> httpx2.AsyncClient:
    app = FastAPI()
    problems.install(app)
    app.include_router(router(reports.settings, KEYS, reports))
    token = issue(KEYS, "tester", [*scopes], timedelta(hours=1))
    headers = {"Authorization": f"Bearer {token}"} if scopes else {}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://api", headers=headers)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Everything kept counts as fresh: the clock of the disk is not that of the day."""
    settings = week.week(tmp_path_factory.mktemp("routes"))
    lasting = settings.report.model_copy(update={"made_anew": timedelta(days=9999)})
    settings = settings.model_copy(update={"report": lasting})
    return Reports(settings, lambda: NOW, week.telling, lambda html: b"%PDF-1.4 " + html[:99].encode())


@pytest.fixture
async def api(reports: Reports) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(reports, "read:metrics") as made:
        yield made


async def test_a_report_is_a_page_with_a_policy_for_its_style_alone(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/reports/2026-11-25")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/=]+'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        answer.headers["content-security-policy"],
    )
    assert "private" in answer.headers["cache-control"]
    assert "Wednesday, 25 November 2026" in answer.text


async def test_the_language_is_what_is_asked_for(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/reports/2026-11-25?lang=ko")
    assert answer.headers["content-language"] == "ko" and '<html lang="ko">' in answer.text
    assert (await api.get("/reports/2026-11-25?lang=de")).status_code == 422


@pytest.mark.parametrize(
    ("name", "accept", "kind"),
    [
        ("2026-11-25", "application/pdf", "application/pdf"),
        ("2026-11-25", "text/html;q=0.5, application/pdf", "application/pdf"),
        ("2026-11-25", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("2026-11-25", "*/*", "text/html; charset=utf-8"),
        ("2026-11-25.pdf", "text/html", "application/pdf"),
        ("2026-11-25.html", "application/pdf", "text/html; charset=utf-8"),
        ("2026-11-25", "image/png", "application/problem+json"),
    ],
)
async def test_page_or_pdf_as_the_path_or_accept_says(
    api: httpx2.AsyncClient, name: str, accept: str, kind: str
) -> None:
    answer = await api.get(f"/reports/{name}", headers={"Accept": accept})
    assert answer.headers["content-type"] == kind
    assert answer.status_code == (406 if "problem" in kind else 200)
    if kind == "application/pdf":
        assert answer.content.startswith(b"%PDF")
        assert answer.headers["content-disposition"] == 'inline; filename="lakehouse-2026-11-25.en.pdf"'


async def test_what_is_known_already_is_not_sent_again(api: httpx2.AsyncClient) -> None:
    etag = (await api.get("/reports/2026-11-25")).headers["etag"]
    again = await api.get("/reports/2026-11-25", headers={"If-None-Match": f'W/"x", {etag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert (await api.get("/reports/2026-11-25", headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("2026-11-27", 404), ("9999-12-31", 404), ("1969-12-31", 404), ("0001-01-01", 404),
        ("2026-02-30", 422), ("2026-13-01", 422), ("today", 422), ("2026-11-25.doc", 422), ("20261125", 422),
        ("2026-11-25T00:00", 422), ("２０２６-11-25", 422), ("2026-11-25%00", 422), ("x" * 500, 422),
        ("..%2F..%2Fetc%2Fpasswd", 404), ("2026-11-25%2F..%2Fx", 404), ("%F0%9F%98%80", 422),
    ],
)  # fmt: skip
async def test_what_is_no_day_that_has_come_is_refused(api: httpx2.AsyncClient, name: str, status: int) -> None:
    answer = await api.get(f"/reports/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status


async def test_a_day_without_anything_has_an_empty_page(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/reports/1970-01-01")
    assert answer.status_code == 200 and "Nothing was recorded on this day." in answer.text


async def test_kept_reports_are_listed_the_newest_first(reports: Reports) -> None:
    for back in range(3):
        reports.kept.write(DATE - timedelta(days=back), "en", "html", b"page")
    async with client(reports, "read:metrics") as api:
        first = (await api.get("/reports?limit=2")).json()
        assert [row["date"] for row in first["data"]] == ["2026-11-25", "2026-11-24"]
        assert first["data"][1] | {"made_at": None} == {
            "date": "2026-11-24", "languages": ["en"], "pdf": [], "made_at": None, "url": "/reports/2026-11-24",
        }  # fmt: skip
        assert Collection[KeptReport].model_validate(first)
        rest = (await api.get("/reports", params={"cursor": first["next"]})).json()
        assert [row["date"] for row in rest["data"]] == ["2026-11-23"] and rest["next"] is None
        assert (await api.get("/reports?cursor=nonsense")).status_code == 422
        assert (await api.get("/reports?limit=0")).status_code == 422


@pytest.mark.parametrize("path", ["/reports", "/reports/2026-11-25", "/reports/2026-11-25.pdf", "/reports/nonsense"])
async def test_reports_are_for_those_who_may_read_metrics(reports: Reports, path: str) -> None:
    async with client(reports) as nobody, client(reports, "read:tables", "admin") as other:
        assert (await nobody.get(path)).status_code == 401
        assert (await other.get(path)).status_code == 403


@pytest.mark.parametrize("path", ["/reports", "/reports/2026-11-25"])
async def test_reports_are_not_for_a_users_own_token(reports: Reports, path: str) -> None:
    async with client(reports) as api:
        token = issue(KEYS, "tester", ["read:metrics"], timedelta(hours=1), "user-1")
        answer = await api.get(path, headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:lakehouse:problem:not-yours")


class Failing(Reports):
    def __init__(self, error: Exception) -> None:
        super().__init__(Settings(hdfs=Hdfs(uri="hdfs://127.0.0.1:1")), lambda: NOW)
        self.error = error

    def get(self, *_: Any) -> bytes:
        raise self.error


@pytest.mark.parametrize(("error", "name"), [(LakeError("away"), "store-away"), (PdfError("no Chromium"), "no-pdf")])
async def test_what_cannot_be_had_now_is_a_503_that_says_why(error: Exception, name: str) -> None:
    async with client(Failing(error), "read:metrics") as api:
        answer = await api.get("/reports/2026-11-25")
        assert (answer.status_code, answer.json()["type"]) == (503, f"urn:lakehouse:problem:{name}")
        assert str(error) in answer.json()["detail"] and "retry-after" in answer.headers


async def test_a_lake_that_is_away_is_a_503(tmp_path: Path) -> None:
    def clock() -> datetime:
        return NOW

    reports = Reports(Settings(home=tmp_path, hdfs=Hdfs(uri="hdfs://127.0.0.1:1")), clock, week.telling)
    async with client(reports, "read:metrics") as api:
        assert (await api.get("/reports")).status_code == 503
        assert (await api.get("/reports/2026-11-25")).status_code == 503
