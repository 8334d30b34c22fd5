"""Errors as RFC 9457 problems (``application/problem+json``), each with the request's id."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakehouse import logs
from serving.tracing import trace_id

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "X-Request-Id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_log = logging.getLogger(__name__)


class Problem(Exception):
    """An answer that is not what was asked for.

    Args:
        status: of HTTP.
        name: what programs tell problems apart by: the type is ``urn:lakehouse:problem:<name>``.
        detail: what is wrong here, and what to do.
        headers: of the answer.
        members: extension members of the problem.
    """

    def __init__(
        self, status: int, name: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.name, self.detail = status, name, detail
        self.headers, self.members = dict(headers or {}), members

    def response(self, request_id: str) -> Response:
        """The answer."""
        body = {
            "type": f"urn:lakehouse:problem:{self.name}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **self.members,
        }
        return Response(orjson.dumps(body), self.status, self.headers, MEDIA_TYPE)


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with a problem, from a place where none can be raised; a WebSocket is not opened."""
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008, "reason": problem.name})
    await problem.response(scope.get("state", {}).get("request_id", ""))(scope, receive, send)


PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "What is wrong, and what to do (RFC 9457).",
    "properties": {
        "type": {
            "type": "string", "format": "uri", "description": "What programs tell problems apart by.",
            "examples": ["urn:lakehouse:problem:store-away"],
        },
        "title": {"type": "string", "description": "The status in words.", "examples": ["Service Unavailable"]},
        "status": {"type": "integer", "description": "The status of HTTP.", "examples": [503]},
        "detail": {"type": "string", "description": "What is wrong here, and what to do."},
        "request_id": {"type": "string", "description": "Names the request, in the log, too."},
        "reasons": {
            "type": "array",
            "description": "What is wrong, one by one.",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {
                        "type": "string", "description": "Where: the place and the name.",
                        "examples": ["/query/filter"],
                    },
                    "reason": {"type": "string"},
                },
                "required": ["pointer", "reason"],
            },
        },
        "store": {"type": "string", "description": "The store that does not answer.", "examples": ["redis"]},
        "scope": {"type": "string", "description": "The scope that is missing.", "examples": ["read:pii"]},
    },
    "required": ["type", "title", "status", "detail", "request_id"],
}  # fmt: skip
"""The schema ``Problem`` of the API's description; a problem may have further members."""


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems that a route answers with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in statuses}


class RequestIds:
    """Names every request, logs it as one line, and answers 500 for what nobody caught.

    A caller's own ``X-Request-Id`` is kept where it is made of up to 64 letters, digits, dots, dashes and underscores.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = dict(scope["headers"]).get(REQUEST_ID.lower().encode(), b"").decode("latin-1")
        request_id = given if _GIVEN_ID(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        trace = trace_id(scope["headers"])
        with logs.about(request_id=request_id, **({} if trace is None else {"trace_id": trace})):
            await self._answer(request_id, scope, receive, send)

    async def _answer(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        status, began = 0, time.monotonic()

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID.lower().encode(), request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, named)
        except ClientDisconnect:
            pass  # nobody is there to answer
        except Exception:
            _log.exception("request %s failed", request_id)
            if status:
                raise
            problem = Problem(500, "internal", "This is a fault of the API; its log names the request's id.")
            await problem.response(request_id)(scope, receive, named)
        took_ms = 1000 * (time.monotonic() - began)
        # Without the query, which may hold anything, and as it was sent: a path may hold the end of a line.
        path = quote(scope["path"][:500], safe="/:@!$&'()*+,;=~")
        _log.info("%s %s %s %.0f ms request %s", scope["method"], path, status or "gone", took_ms, request_id)


def install(app: FastAPI) -> None:
    """Make every error of an application a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        match error:
            case Problem():
                problem = error
            case RequestValidationError():
                wrong = [{"pointer": "/".join(["", *map(str, e["loc"])]), "reason": e["msg"]} for e in error.errors()]
                problem = Problem(422, "invalid-request", "The request is not as documented.", reasons=wrong)
            case HTTPException():
                problem = Problem(error.status_code, "http", error.detail, error.headers)
            case _:
                raise error
        return problem.response(request.state.request_id)

    for kind in (Problem, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
    app.add_middleware(RequestIds)
