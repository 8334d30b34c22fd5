"""``http``: a POST or PUT is answered 200 once its events are on disk, 429 while the queue stays full."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import ssl
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import uvicorn
from pydantic import Field, SecretStr

from lakehouse.collect.codecs import CodecName, codec
from lakehouse.collect.event import METADATA, Event, put
from lakehouse.collect.inputs.listening import ListenOptions, bound, from_host, marking
from lakehouse.collect.plugins import Intake, Plugin

BUSY_S = 10.0
"""Seconds that a request waits for room in the queue."""


class HttpOptions(ListenOptions):
    """``additional_codecs`` chooses by content type; ``max_content_length`` is in bytes."""

    codec: CodecName = "plain"
    additional_codecs: dict[str, str] = {"application/json": "json"}
    user: str | None = None
    password: SecretStr | None = None
    max_content_length: int = Field(default=100 * 1024 * 1024, ge=1)
    max_pending_requests: int = Field(default=200, ge=1)
    response_code: int = 200


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The collector has signals of its own."""
        yield


class Http:
    """Takes bodies of requests. ``port`` is told when it listens; ``busy`` is in seconds."""

    def __init__(self, options: HttpOptions, plugin: Plugin, busy: float = BUSY_S) -> None:
        self._options, self._mark, self._busy = options, marking(options), busy
        self._codec = codec(plugin, options.codec, "unit")
        self._codecs = {kind.lower(): codec(plugin, name, "unit") for kind, name in options.additional_codecs.items()}
        self.port: Future[int] = Future()
        self._pending = 0

    async def run(self, intake: Intake) -> None:
        """Listen until cancelled; requests that are not answered then have no answer."""

        async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
            if scope["type"] == "http":
                await self._answer(intake, scope, receive, send)

        options = self._options
        options.context()  # an error in it in our words
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, server_header=False, http="h11", ws="none",
            timeout_graceful_shutdown=1,
            ssl_certfile=options.ssl_certificate if options.ssl_enabled else None,
            ssl_keyfile=options.ssl_key if options.ssl_enabled else None,
            ssl_cert_reqs={"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}[
                options.ssl_client_authentication
            ],
            ssl_ca_certs=options.ssl_certificate_authorities[0] if options.ssl_certificate_authorities else None,
        )  # fmt: skip
        server = _Server(config)
        with bound(options.host, options.port) as listener:
            self.port.set_result(listener.getsockname()[1])  # the system holds connections until the server takes them
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await asyncio.shield(serving)
            finally:
                server.should_exit = True
                await serving

    async def _answer(
        self, intake: Intake, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]
    ) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def answer(status: int, text: str, **more: str) -> None:
            shown = {
                "content-type": "text/plain",
                "content-length": str(len(text)),
                **{name.replace("_", "-"): value for name, value in more.items()},
            }
            sent = [(name.encode(), value.encode()) for name, value in shown.items()]
            await send({"type": "http.response.start", "status": status, "headers": sent})
            await send({"type": "http.response.body", "body": text.encode()})

        if not self._allowed(headers.get("authorization", "")):
            return await answer(401, "Unauthorized", www_authenticate='Basic realm="collector"')
        if scope["method"] not in ("POST", "PUT"):
            return await answer(405, "Method not allowed: send events by POST or PUT", allow="POST, PUT")
        if self._pending >= self._options.max_pending_requests:
            return await answer(429, "Busy: too many requests at once", retry_after="10")
        self._pending += 1
        try:
            return await self._taken(intake, scope, headers, receive, answer)
        finally:
            self._pending -= 1

    async def _taken(
        self,
        intake: Intake,
        scope: dict[str, Any],
        headers: dict[str, str],
        receive: Callable[[], Awaitable[Any]],
        answer: Callable[..., Awaitable[None]],
    ) -> None:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._options.max_content_length:
                return await answer(413, f"Longer than {self._options.max_content_length} bytes", connection="close")
        if events := self._events(bytes(body), scope, headers):
            try:
                async with asyncio.timeout(self._busy):
                    await intake.put(events)
            except TimeoutError:
                return await answer(429, "Busy: the queue is full", retry_after="10")
        return await answer(self._options.response_code, "ok")

    def _allowed(self, header: str) -> bool:
        if self._options.user is None or self._options.password is None:
            return True
        pair = f"{self._options.user}:{self._options.password.get_secret_value()}"
        wanted = "Basic " + base64.b64encode(pair.encode()).decode()
        return secrets.compare_digest(header.encode(), wanted.encode())

    def _events(self, body: bytes, scope: dict[str, Any], headers: dict[str, str]) -> list[Event]:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        decoder = self._codecs.get(kind, self._codec)()
        events = [*decoder.decode(body), *decoder.flush()]
        kept = {name: value for name, value in headers.items() if name != "authorization"}
        for event in events:
            put(event, (METADATA, "input", "http", "request", "headers"), kept)
            if scope.get("client"):
                from_host(event, "ip", scope["client"][0])
        return self._mark(events)
