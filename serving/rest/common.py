"""What collections have in common: their parameters, and how rows are answered with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

from fastapi import Depends, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serving import formats, steps
from serving.ask import Ask, Condition, ask, wrong
from serving.auth import Caller
from serving.catalog import find
from serving.problems import documented
from serving.reads import age_s
from serving.rest import columns
from serving.service import LARGEST_PAGE, MOST_ROWS, Service, now

RFC3339 = "RFC 3339 with offset, or a date for its midnight, UTC."
Time = Annotated[str | None, Field(max_length=40, examples=["2026-01-31T12:00:00Z"])]
_digits = re.compile("-?[0-9]{1,18}").fullmatch
"""Pydantic takes ``1_000`` and blanks, too."""


def _whole(value: Any) -> Any:
    if isinstance(value, str) and not _digits(value):
        raise ValueError("it is not a whole number")
    return value


Columns = Annotated[str | None, Field(max_length=1000)]


class Wanted(BaseModel):
    """The parameters of a collection over a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filters: list[Annotated[str, Field(max_length=5000)]] = Field(
        [], alias="filter", max_length=20, examples=[["requests:ge:10", "service:in:gateway,posts"]],
        description="`column:operator:value`, all of which hold; operators eq ne gt ge lt le in contains null. Values "
        "of `in` are separated by commas, `null` is followed by true or false, `ne` holds for null, too.",
    )  # fmt: skip
    select: Columns = Field(None, description="Columns, separated by commas; all by default.")
    order: Columns = Field(
        None, description="Columns, separated by commas; `-` before one for descending; nulls come last. By default "
        "the newest first.",
    )  # fmt: skip
    since: Time = Field(None, alias="from", description=f"The first time, of the table's own. {RFC3339}")
    until: Time = Field(
        None, alias="to", description=f"The first time that is no longer wanted. {RFC3339} Of tables by day every day "
        "counts that the span touches.",
    )  # fmt: skip
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS), BeforeValidator(_whole)] = Field(
        100, description=f"Rows; more than {LARGEST_PAGE} come as a stream, and not as JSON."
    )
    cursor: str | None = Field(None, max_length=4096, description="`next` of the page before.")
    version: Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_whole)] | None = Field(
        None, description="Of the table, to travel back in time."
    )
    step: Annotated[str, Field(max_length=20, examples=["30m", "1h"])] | None = Field(None, description=steps.MEANING)

    def of(self, table: str, caller: Caller, *where: Condition) -> Ask:
        """The question to a table."""
        return ask(
            find(table), caller, filters=self.filters, where=where, select=self.select, order=self.order,
            since=self.since, until=self.until, limit=self.limit, version=self.version, step=self.step,
        )  # fmt: skip


def _parameters() -> list[dict[str, Any]]:
    """What :class:`Wanted` takes, in OpenAPI's words."""
    fields = Wanted.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema["description"]}
        for name, schema in fields.items()
    ]


STEPPED = {"parameters": _parameters()}
"""``openapi_extra`` of a collection over a table that can be had in longer steps of time."""
ASKED = {"parameters": [one for one in STEPPED["parameters"] if one["name"] != "step"]}
"""``openapi_extra`` of a collection over any other table."""
MOST_KEPT = 1000
"""Characters of a query that is read once, however often it comes."""


async def wanted(request: Request) -> Wanted:
    """The parameters of a request. FastAPI's own way to them takes as long as all the rest of a cached answer.

    Raises:
        RequestValidationError: they are not as documented, or one is there twice.
    """
    query = request.scope["query_string"]
    return _kept(query) if len(query) <= MOST_KEPT else _read(query)


def _read(query: bytes) -> Wanted:
    given: dict[str, Any] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == "filter":
            given.setdefault(name, []).append(value)
        elif name in given:
            twice = {"type": "twice", "loc": ("query", name), "msg": "It is there twice", "input": value}
            raise RequestValidationError([twice])
        else:
            given[name] = value
    try:
        return Wanted.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("query", *one["loc"])} for one in error.errors()]) from None


_kept = lru_cache(4096)(_read)
Asked = Annotated[Wanted, Depends(wanted)]


def described(*tables: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of a collection: rows of a table, or of any of some, in any format, 304, and problems."""
    pages = [columns.reference(columns.page(table)) for table in tables]
    content: dict[str, Any] = {
        formats.JSON: {"schema": pages[0] if len(pages) == 1 else {"anyOf": pages}},
        formats.NDJSON: {"schema": {"type": "string", "description": "A row a line, as in JSON."}},
        formats.CSV: {"schema": {"type": "string", "description": "RFC 4180, with a header; null is nothing."}},
        formats.ARROW: {"schema": {"description": "An Arrow IPC stream."}},
    }
    headers = {
        "ETag": {"schema": {"type": "string"}, "description": "For `If-None-Match`."},
        "Lakehouse-Table-Version": {
            "schema": {"type": "string", "pattern": "^[0-9]+$"}, "description": "The version that answers.",
        },
        "Lakehouse-Data-Age": {
            "schema": {"type": "string", "pattern": "^[0-9.]+$"}, "description": "Seconds since it was committed.",
        },
        "Link": {"schema": {"type": "string"}, "description": "The next page (RFC 8288), if there is one."},
    }  # fmt: skip
    answers: dict[int | str, dict[str, Any]] = {
        200: {"description": "Rows", "content": content, "headers": headers},
        304: {"description": "What `If-None-Match` names is still the answer"},
    }
    return answers | documented(401, 403, 404, 406, 410, 422, 429, 503, 504)


async def respond(service: Service, request: Request, caller: Caller, wanted: Wanted, question: Ask) -> Response:
    """The answer to a question, in the format that the request accepts."""
    kind = formats.wanted(",".join(request.headers.getlist("accept")))
    if wanted.limit > LARGEST_PAGE and kind == formats.JSON:
        raise wrong("limit", f"JSON has at most {LARGEST_PAGE} rows: ask for NDJSON, CSV or Arrow")
    question = service.resume(question, caller, wanted.cursor)
    body = await service.body(caller, question, kind, ",".join(request.headers.getlist("if-none-match")) or None)
    headers = {
        "ETag": body.etag,
        "Cache-Control": "private, no-cache",
        "Vary": "Accept, Authorization",
        "Lakehouse-Table-Version": str(body.snapshot.version),
        "Lakehouse-Data-Age": str(max(age_s(body.snapshot.at, now()), 0.0)),
    }
    if body.content is None:
        return Response(status_code=304, headers=headers)
    if body.next:
        query = quote(request.scope["query_string"], safe="%/:?@!$&'()*+,;=~")
        kept = [part for part in query.split("&") if part and not part.startswith("cursor=")]
        path = quote(request.scope["path"], safe="/:@!$&'()*+,;=~")
        headers["Link"] = f'<{path}?{"&".join([*kept, f"cursor={body.next}"])}>; rel="next"'
    if isinstance(body.content, bytes):
        return Response(body.content, 200, headers, kind)
    return StreamingResponse(body.content, 200, headers, kind)


def path(words: str, example: str) -> Any:
    """A parameter in the path."""
    return Path(min_length=1, max_length=300, description=words, examples=[example])


def answer(value: Any) -> Response:
    """An object as JSON, for one caller and not to be kept."""
    return Response(formats.dumps(value), 200, {"Cache-Control": "private, no-store"}, formats.JSON)


def collection(rows: Sequence[dict[str, Any]], following: str | None = None, **more: Any) -> Response:
    """Rows of no table's version."""
    return answer({"data": rows, "next": following, "version": None, **more})
