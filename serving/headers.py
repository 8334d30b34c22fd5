"""What every answer tells a browser, and by which names the API may be called."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.limits import header
from serving.problems import Problem, refuse

LOOPBACK = ("127.0.0.1", "::1", "localhost")
PROBES = frozenset({"/healthz", "/readyz"})
"""Asked by machines that know addresses alone, and telling nothing."""
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""Of an HTML page that has none of its own: scripts from here, none in the page."""
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_TLS = (b"strict-transport-security", b"max-age=31536000")


class SecurityHeaders:
    """Adds what protects whoever reads an answer in a browser; what an answer already says of itself stays.

    An answer to a request with credentials, and any problem, is kept by nobody unless it says that it may be.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = list(message["headers"])
                names = {name for name, _ in found}
                found += [pair for pair in _ALWAYS if pair[0] not in names]
                if b"content-security-policy" not in names:
                    page = (header(found, b"content-type") or b"").startswith(b"text/html")
                    found.append((b"content-security-policy", (PAGE_POLICY if page else DATA_POLICY).encode()))
                named = header(scope["headers"], b"authorization") is not None
                if (named or message["status"] >= 400) and b"cache-control" not in names:
                    found.append((b"cache-control", b"private, no-store"))
                if scope.get("scheme") == "https" and _TLS[0] not in names:
                    found.append(_TLS)
                message["headers"] = found
            await send(message)

        await self.app(scope, receive, answered)


class Hosts:
    """Answers 421 to a request for another name: a page of a stranger whose name leads here (DNS rebinding) stays out.

    Args:
        app: what is served.
        names: without ports; one that begins with ``*.`` stands for all beneath it.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self.app = app
        self.names = frozenset(name.lower().strip("[]") for name in names)
        self.beneath = tuple(name[1:] for name in self.names if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in PROBES:
            return await self.app(scope, receive, send)
        given = {value for name, value in scope["headers"] if name == b"host"}
        host = name_of(given.pop().decode("latin-1")) if len(given) == 1 else ""
        if host in self.names or (self.beneath and host.endswith(self.beneath)):
            return await self.app(scope, receive, send)
        detail = "The API is not called by this name (Host): api.hosts lists its names."
        await refuse(Problem(421, "misdirected", detail, {"Connection": "close"}), scope, receive, send)


def name_of(host: str) -> str:
    """The name in a ``Host`` header, in small letters, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
