"""How the process listens: where it may, and how much a connection may send before it is a request."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from lakehouse.settings import Settings
from serving.headers import LOOPBACK
from serving.keys import weakness
from serving.problems import REQUEST_ID, Problem
from serving.server import Droppable

LONGEST_URL = 8 * 1024
"""Bytes of a request's target; RFC 9112 asks for 8,000 at least."""
LARGEST_HEAD = 32 * 1024
"""Bytes of a request's line and headers."""
MOST_HEADERS = 100
HEAD_S = 15.0
"""How long a request's head may take to come, and a new connection until its first."""
IDLE_S = 30
"""How long a connection is kept without a request: longer than clients hold idle ones, so that they close them."""
STALLED_S = 60
"""After which a client that takes nothing of what is sent to it is dropped (TCP_USER_TIMEOUT)."""
ENDING_S = 15


class ListenError(Exception):
    """The API may not, or cannot, be served there; one line that says what to do."""


class BoundedHttp(Droppable):
    """HTTP/1.1 by uvicorn and httptools, which bound neither the size of a head nor the time that it takes to come.

    What is refused is answered with a problem, and the connection closed: 414, 431, 408, 503, 400.
    """

    most_connections = 2_000
    _head_timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_size = 0
    _unseen = 0
    """Bytes since the parser last came to something: all that tells the size of a header that is not whole."""
    _refusal: Problem | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            detail = f"{self.most_connections} connections are open: try again."
            return self._refuse(Problem(503, "busy", detail, {"Retry-After": "1"}))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came: of a head, a body, or both."""
        if self.transport.is_closing():
            return
        self._unseen += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unseen > LARGEST_HEAD:
            self._refuse(_head_too_large())
        elif self._in_head and (self.cycle is None or self.cycle.response_complete):
            self._await_head()  # empty lines are no request either

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_head, self._head_size = True, 0
        self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        super().on_url(url)
        if len(self.url) > LONGEST_URL:
            self._stop(_url_too_long())

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        if not self._in_head:
            return  # a trailer, which would join the headers after they were looked at
        super().on_header(name, value)
        self._head_size += len(name) + len(value) + 4
        if len(self.headers) > MOST_HEADERS or self._head_size > LARGEST_HEAD:
            self._stop(_head_too_large())

    def on_headers_complete(self) -> None:
        """The end of a head."""
        self._in_head, self._unseen = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unseen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request; what comes now is the next one's head."""
        self._in_head, self._unseen = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or more of one than is read."""
        self._refuse(self._refusal or Problem(400, "malformed", "This is not HTTP/1.1.", {}))

    def _stop(self, why: Problem) -> None:
        self._refusal = why
        raise ValueError(why.name)  # ends the parser, which calls send_400_response

    def _refuse(self, problem: Problem) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.disconnected = True  # what the application has to say comes too late
        if self.cycle is None or self.cycle.response_complete or self.cycle.disconnected:  # else an answer is under way
            request_id = uuid4().hex
            answer = problem.response(request_id)
            head = [
                f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
                *(f"{name.decode()}: {value.decode()}" for name, value in answer.raw_headers),
                f"{REQUEST_ID}: {request_id}",
                "Cache-Control: no-store",
                "Connection: close",
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + bytes(answer.body))
        self.transport.close()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        self._refuse(Problem(408, "too-slow", f"The request's head did not come within {HEAD_S:g} s."))


def _url_too_long() -> Problem:
    return Problem(414, "url-too-long", f"The address is over {LONGEST_URL:,} bytes.")


def _head_too_large() -> Problem:
    return Problem(431, "headers-too-large", f"Headers are over {MOST_HEADERS}, or {LARGEST_HEAD:,} bytes.")


def options(settings: Settings) -> dict[str, Any]:
    """The options of :class:`uvicorn.Config`."""
    api = settings.api
    bounded = type("Bounded", (BoundedHttp,), {"most_connections": api.max_connections})
    return {
        "http": bounded,
        "log_config": None,  # ours: one line a request, with its id
        "access_log": False,
        "ws_max_size": 256 * 1024,  # of a message; uvicorn's own is 16 MiB
        "server_header": False,
        "proxy_headers": api.behind_proxy,  # on by default, it would believe anybody on this machine
        "forwarded_allow_ips": list(api.proxies),
        "timeout_keep_alive": IDLE_S,
        "timeout_graceful_shutdown": ENDING_S,
        "ssl_certfile": api.tls_certificate,
        "ssl_keyfile": api.tls_key,
    }


def check(settings: Settings) -> None:
    """Refuse to listen where others could read tokens, or make them.

    Raises:
        ListenError: the address is reachable from other machines, without TLS or a proxy, or without a good secret
            from the environment; or the certificate cannot be used.
    """
    api, host = settings.api, settings.api.host
    if api.tls_certificate is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(api.tls_certificate, api.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise ListenError(
                f"TLS is not possible with {api.tls_certificate} and {api.tls_key or 'the key in it'} ({error}): see "
                "api.tls_certificate and api.tls_key"
            ) from None
    if is_loopback(host):
        return
    where = f"{host} can be reached from other machines"
    if api.tls_certificate is None and not api.behind_proxy:
        raise ListenError(
            f"{where}, and tokens would cross the network in the clear: set LAKEHOUSE_API__TLS_CERTIFICATE and "
            "__TLS_KEY, or LAKEHOUSE_API__BEHIND_PROXY=true where a proxy alone can reach it and speaks TLS"
        )
    if not api.secrets:
        raise ListenError(
            f"{where}: set LAKEHOUSE_API__SECRETS to a secret of its own, such as "
            """LAKEHOUSE_API__SECRETS="{\\"key-1\\": \\"$(openssl rand -hex 32)\\"}\""""
        )
    for kid, secret in api.secrets.items():
        if why := weakness(secret.get_secret_value()):
            raise ListenError(
                f"{where}: the secret of key {kid!r} in LAKEHOUSE_API__SECRETS {why}, so it can be guessed: "
                "`openssl rand -hex 32` makes one"
            )


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names(settings: Settings) -> tuple[str, ...] | None:
    """By which names the API may be called; None for any."""
    if settings.api.hosts is not None:
        return (*settings.api.hosts, *LOOPBACK) if is_loopback(settings.api.host) else settings.api.hosts
    return (*LOOPBACK, settings.api.host) if settings.profile == "local" else None


def listen(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        ListenError: it cannot, or may not: see :func:`check`.
    """
    check(settings)
    host, port = settings.api.host, settings.api.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {host}:{port} ({error.strerror}): set LAKEHOUSE_API__HOST or __PORT"
        ) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * STALLED_S)
    return listening
