"""The dashboard: ``/`` and ``/assets/*``, built files that a browser needs no token for; the data behind them do.

The files are few and small, so they are held in memory, packed once: no path of a request ever reaches the disk.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from fastapi import APIRouter, Request, Response

from serving.problems import Problem, documented

DIST = Path(__file__).parent / "dashboard" / "dist"
"""Where ``make dashboard`` puts what it builds."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content-Security-Policy (level 3): scripts, styles and data of this origin, nothing inline, no HTML out of text."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_LEAST_PACKED = 500
"""Bytes below which packing gains nothing."""


@dataclass(frozen=True)
class File:
    """A file as it is sent: plain, and packed where that is shorter."""

    kind: str
    plain: bytes
    packed: bytes | None
    etag: str


class Pages:
    """What was built, read again when another build takes its place.

    Args:
        dist: the folder of a build: ``index.html`` and ``assets/``, whose names carry a hash of their content.
    """

    def __init__(self, dist: Path) -> None:
        self._dist = dist
        self._lock = Lock()
        self._build: tuple[int, int] | None = None
        self._files: dict[str, File] = {}

    def file(self, name: str) -> File:
        """A file of the build by its path in it.

        Raises:
            Problem: 503 nothing is built, 404 the build has no such file.
        """
        try:
            found = (self._dist / "index.html").stat()
        except OSError:
            raise Problem(
                503, "pages-not-built", "The pages are not built: `make dashboard` builds them (it needs npm)."
            ) from None
        build = (found.st_mtime_ns, found.st_ino)
        with self._lock:
            if build != self._build:
                self._files, self._build = _read(self._dist), build
            file = self._files.get(name)
        if file is None:
            raise Problem(404, "no-such-page", "There is no such page: the dashboard is at /.")
        return file


def _read(dist: Path) -> dict[str, File]:
    paths = [dist / "index.html", *sorted((dist / "assets").glob("*"))]
    return {path.relative_to(dist).as_posix(): _file(path) for path in paths if path.suffix in _KINDS}


def _file(path: Path) -> File:
    plain = path.read_bytes()
    packed = gzip.compress(plain, 9, mtime=0) if len(plain) >= _LEAST_PACKED else None
    if packed is not None and len(packed) >= len(plain):
        packed = None
    return File(_KINDS[path.suffix], plain, packed, hashlib.blake2b(plain, digest_size=12).hexdigest())


def router(dist: Path = DIST) -> APIRouter:
    """The routes; not part of the API's description."""
    routes, pages = APIRouter(include_in_schema=False), Pages(dist)
    methods = ["GET", "HEAD"]

    @routes.api_route("/", methods=methods, responses=documented(503))
    def index(request: Request) -> Response:
        """The one page: asked for anew each time, so that a new build shows at once."""
        return _answer(request, pages.file("index.html"), "no-cache")

    @routes.api_route("/assets/{name}", methods=methods, responses=documented(404, 503))
    def asset(request: Request, name: str) -> Response:
        """A part of the page, whose name changes with its content."""
        return _answer(request, pages.file(f"assets/{name}"), "public, max-age=31536000, immutable")

    return routes


def _answer(request: Request, file: File, kept: str) -> Response:
    packs = file.packed is not None and _takes_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{file.etag}{"-gz" if packs else ""}"'  # RFC 9110, 8.8.3: another coding, another tag
    headers = {**HEADERS, "Cache-Control": kept, "ETag": etag}
    if file.packed is not None:
        headers["Vary"] = "Accept-Encoding"
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    if packs:
        headers["Content-Encoding"] = "gzip"
    return Response(file.packed if packs else file.plain, 200, headers, file.kind)


def _takes_gzip(accepted: str) -> bool:
    """Whether ``Accept-Encoding`` (RFC 9110, 12.5.3) takes gzip."""
    for part in accepted.lower().split(","):
        coding, *parameters = (word.strip() for word in part.split(";"))
        if coding in ("gzip", "*"):
            return not any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
    return False
