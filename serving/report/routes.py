"""``GET /reports``: reports of days as pages and PDFs, made where they are not there yet."""

import hashlib
import re
from collections.abc import Callable
from datetime import date as Date
from datetime import datetime
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from lakehouse.settings import Settings
from lakehouse.sources.lake import LakeError
from serving import auth, formats
from serving.auth import Caller
from serving.problems import Problem, documented
from serving.report.kept import Copy, Form
from serving.report.made import Reports
from serving.report.page import policy
from serving.report.pdf import PdfError
from serving.report.words import Lang
from serving.rest.answers import Collection
from serving.rest.common import collection

HTML, PDF = "text/html", "application/pdf"
KINDS: dict[str, Form] = {HTML: "html", PDF: "pdf"}
FIRST = Date(1970, 1, 1)
"""No event is older, by the contracts."""
WITHIN_S = 120.0
AT_ONCE = 4
_NAME = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(html|pdf))?")
_HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization"}
Result = TypeVar("Result")


class KeptReport(BaseModel):
    """The reports of a day that are kept."""

    model_config = ConfigDict(extra="forbid")

    date: Date = Field(examples=["2026-11-25"])
    languages: list[Lang] = Field(description="In which there is a page.")
    pdf: list[Lang] = Field(description="In which there is a PDF, too; any other is printed when it is asked for.")
    made_at: datetime
    url: str = Field(examples=["/reports/2026-11-25"])


def router(settings: Settings, keys: auth.Keys, reports: Reports | None = None) -> APIRouter:
    """The routes."""
    made, made_by = APIRouter(tags=["reports"]), reports or Reports(settings)
    metrics = auth.caller(keys, "read:metrics")

    async def everybodys(caller: Annotated[Caller, Depends(metrics)]) -> Caller:
        """A caller who may see what is of everybody: what they write about, and what logs say."""
        if caller.user_id is not None:
            raise Problem(403, "not-yours", "Reports are of everybody: a user's token cannot read them.")
        return caller

    allowed = Depends(everybodys)
    threads = anyio.CapacityLimiter(AT_ONCE)

    async def work(call: Callable[[], Result]) -> Result:
        try:
            with anyio.fail_after(WITHIN_S):
                return await anyio.to_thread.run_sync(call, limiter=threads, abandon_on_cancel=True)
        except TimeoutError:
            raise Problem(
                503,
                "report-late",
                f"The report was not made within {WITHIN_S:.0f} s: try again.",
                {"Retry-After": "30"},
            ) from None
        except LakeError as error:
            raise Problem(503, "store-away", f"{error}.", {"Retry-After": "5"}, store="hdfs") from None
        except PdfError as error:
            raise Problem(503, "no-pdf", f"{error}.", {"Retry-After": "60"}) from None

    listed: dict[int | str, dict[str, Any]] = {
        200: {"description": "Days", "model": Collection[KeptReport]},
        **documented(401, 403, 422, 429, 503),
    }

    @made.get("/reports", responses=listed, response_class=Response)
    async def kept(
        caller: Annotated[Caller, allowed],
        limit: Annotated[int, Query(ge=1, le=1000, description="Days.")] = 100,
        cursor: Annotated[str | None, Query(max_length=10, description="`next` of the page before.")] = None,
    ) -> Response:
        """The reports that are kept, the newest day first."""
        before = None if cursor is None else _date(cursor)
        days: dict[Date, list[Copy]] = {}
        for copy in await work(made_by.kept.all):
            if before is None or copy.date < before:
                days.setdefault(copy.date, []).append(copy)
        shown = [*days.items()][:limit]
        following = shown[-1][0].isoformat() if len(days) > limit else None
        return collection([_row(date, copies) for date, copies in shown], following)

    answers: dict[int | str, dict[str, Any]] = {
        200: {"description": "The report", "content": {kind: {"schema": {"type": "string"}} for kind in KINDS}},
        304: {"description": "What `If-None-Match` names is still the report"},
        **documented(401, 403, 404, 406, 422, 429, 503),
    }

    @made.get("/reports/{name}", responses=answers, response_class=Response)
    async def report(
        request: Request,
        caller: Annotated[Caller, allowed],
        name: Annotated[
            str, Path(max_length=20, description="A date, UTC; with `.html` or `.pdf` whatever `Accept` says.",
                      examples=["2026-11-25", "2026-11-25.pdf"])
        ],
        lang: Annotated[Lang, Query(description="The language.")] = "en",
    ) -> Response:  # fmt: skip
        """The report of a day: HTML, or PDF where `Accept` prefers it. That of a day that is not over is of now."""
        match = _NAME.fullmatch(name)
        date = _date(match[1] if match else name)
        assert match is not None  # what is no date has been refused
        today = made_by.now().date()
        if not FIRST <= date <= today:
            raise Problem(404, "no-report", f"There are reports from {FIRST} to {today}, UTC; {date} is none of these.")
        form = KINDS[formats.wanted(request.headers.get("accept"), [*KINDS])] if match[2] is None else match[2]
        kind = HTML if form == "html" else PDF
        content = await work(lambda: made_by.get(date, lang, "html" if form == "html" else "pdf"))
        etag = f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
        headers = _HEADERS | {
            "ETag": etag,
            "Content-Language": lang,
            "Content-Disposition": f'inline; filename="lakehouse-{date}.{lang}.{form}"',
            "Content-Security-Policy": policy(content) if form == "html" else "default-src 'none'",
        }
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, 200, headers, f"{kind}; charset=utf-8" if kind == HTML else kind)

    return made


def _date(text: str) -> Date:
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        try:
            return Date.fromisoformat(text)
        except ValueError:
            pass
    raise Problem(422, "invalid-date", f"{text[:20]!r} is no date, such as 2026-11-25.")


def _row(date: Date, copies: list[Copy]) -> dict[str, Any]:
    pages = [copy for copy in copies if copy.form == "html"]
    return {
        "date": date,
        "languages": sorted({copy.lang for copy in pages}),
        "pdf": sorted({copy.lang for copy in copies if copy.form == "pdf"}),
        "made_at": max(copy.made_at for copy in pages or copies),
        "url": f"/reports/{date}",
    }
