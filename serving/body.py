"""Request bodies: their form, read and unpacked within bounds, cut into events byte for byte."""

from __future__ import annotations

import asyncio
import re
import zlib
from dataclasses import dataclass
from typing import Literal

import orjson
from fastapi import Request

from serving.problems import Problem

MAX_BYTES = 5 * 1024 * 1024
"""Largest body, in bytes: as sent, and unpacked."""
MAX_EVENTS = 60_000
"""Most events of one body: more valid ones than 5 MB can hold; bounds the answer to a body of nothing but ``{}``."""
READ_S = 30.0
"""How long a body may take to come."""
MAX_MEMBERS = 64
"""Most gzip members of one body (RFC 1952 lets a file be several)."""
Form = Literal["json", "ndjson"]
_FORMS: dict[str, Form] = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
}
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)
_BLANK = b" \t\r\n"
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)
"""Of valid JSON: a string, whole, or what opens, closes or separates."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it was written; ``line`` counts the lines of NDJSON from 1."""

    value: bytes
    line: int | None = None


def form(request: Request) -> Form:
    """How the body is written.

    Raises:
        Problem: 415 for another media type, charset or coding.
    """
    written = request.headers.get("content-type", "")
    found = _FORMS.get(written.partition(";")[0].strip().lower())
    charset = _CHARSET.search(written)
    if found is None or (charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii")):
        known = ", ".join(_FORMS)
        raise Problem(415, "media-type", f"Content-Type is {written or 'missing'}: send {known} in UTF-8.")
    if _coding(request) not in ("identity", "gzip"):
        detail = f"Content-Encoding is {_coding(request)}: send gzip, or none."
        raise Problem(415, "content-encoding", detail, {"Accept-Encoding": "gzip, identity"})  # RFC 9110, 15.5.16
    return found


def _coding(request: Request) -> str:
    written = request.headers.get("content-encoding", "identity").strip().lower()
    return "gzip" if written == "x-gzip" else written


def _too_large() -> Problem:
    return Problem(413, "too-large", f"The body is over {MAX_BYTES:,} bytes, as sent or unpacked: send it in parts.")


async def read(request: Request) -> bytes:
    """The whole body, unpacked. Never more than the limit is held: a body that would be larger ends the reading.

    Raises:
        Problem: 413 over :data:`MAX_BYTES`, 400 for broken gzip, 408 after :data:`READ_S`.
    """
    try:
        async with asyncio.timeout(READ_S):
            return await _read(request)
    except TimeoutError:
        detail = f"The body did not come within {READ_S:g} s: send it in parts."
        raise Problem(408, "too-slow", detail, {"Connection": "close"}) from None


async def _read(request: Request) -> bytes:
    if int(request.headers.get("content-length") or 0) > MAX_BYTES:
        raise _too_large()
    gunzip = Gunzip() if _coding(request) == "gzip" else None
    received, body = 0, bytearray()
    async for chunk in request.stream():
        received += len(chunk)
        body += chunk if gunzip is None else gunzip.feed(chunk, MAX_BYTES + 1 - len(body))
        if max(received, len(body)) > MAX_BYTES:
            raise _too_large()
    if gunzip is not None and not gunzip.whole:
        raise Problem(400, "gzip", "The gzip data end too early.")
    return bytes(body)


class Gunzip:
    """Unpacks gzip (RFC 1952) as it arrives, no more than is asked for."""

    def __init__(self) -> None:
        self._members = 0
        self._member = self._next()

    def _next(self) -> zlib._Decompress:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise Problem(400, "gzip", f"The gzip data have over {MAX_MEMBERS} members.")
        return zlib.decompressobj(wbits=31)

    @property
    def whole(self) -> bool:
        """Whether the data may end here."""
        return self._member.eof

    def feed(self, chunk: bytes, most: int) -> bytes:
        """Unpack a chunk, up to ``most`` bytes (over 0); what is beyond them is lost.

        Raises:
            Problem: 400, not gzip.
        """
        out = bytearray()
        try:
            while chunk and len(out) < most:
                if self._member.eof:
                    self._member = self._next()
                out += self._member.decompress(chunk, most - len(out))
                chunk = self._member.unconsumed_tail or self._member.unused_data
        except zlib.error as error:
            raise Problem(400, "gzip", f"The body is not gzip: {error}.") from None
        return bytes(out)


def split(body: bytes, form: Form) -> list[Event]:
    r"""The events of a body, each with the very bytes that the client wrote.

    Numbers of any size, repeated names, escapes, order and white space inside an event are kept as they are, since no
    event is parsed and written anew. NDJSON: each line, split at ``\n`` and nothing else; blank lines are passed over.
    JSON: the object, or each element of the array, without the white space around it.

    Raises:
        Problem: 400 for a body that is empty or not JSON, 422 without an event, 413 over :data:`MAX_EVENTS`.
    """
    if not body.strip(_BLANK):
        raise Problem(400, "empty", "The body is empty.")
    if form == "ndjson":
        events = [Event(text, n) for n, text in enumerate(body.split(b"\n"), 1) if text.strip(_BLANK)]
    else:
        events = [Event(text) for text in _texts(body)]
    if len(events) > MAX_EVENTS:
        raise Problem(
            413, "too-many", f"The body holds {len(events):,} events, at most {MAX_EVENTS:,} are taken at once."
        )
    return events


def _texts(body: bytes) -> list[bytes]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, "json", f"The body is not JSON (RFC 8259): {error}.") from None
    if isinstance(document, dict):
        return [body.strip(_BLANK)]
    if not isinstance(document, list):
        raise Problem(422, "no-event", "The body is neither an event (a JSON object) nor an array of events.")
    if not document:
        raise Problem(422, "no-event", "The array holds no event.")
    return elements(body)


def elements(array: bytes) -> list[bytes]:
    """The text of each element of an array that is valid JSON and not empty."""
    found: list[bytes] = []
    depth = start = 0
    for token in _TOKEN.finditer(array):
        match array[token.start()]:
            case 0x5B | 0x7B:  # [ {
                depth += 1
                start = token.end() if depth == 1 else start
            case 0x5D | 0x7D:  # ] }
                depth -= 1
                if depth == 0:
                    found.append(array[start : token.start()].strip(_BLANK))
            case 0x2C if depth == 1:  # ,
                found.append(array[start : token.start()].strip(_BLANK))
                start = token.end()
    return found
