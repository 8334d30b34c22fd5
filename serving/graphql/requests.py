"""What a GraphQL request is over HTTP, and how it wants to be answered."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request

from serving.problems import Problem

RESPONSE, JSON, EVENTS = "application/graphql-response+json", "application/json", "text/event-stream"
BODY_S = 20.0
"""How long a body may take to come."""
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """A GraphQL request."""

    query: str
    name: str | None
    variables: dict[str, Any] | None


# --- requests --------------------------------------------------------------------------------------------------------


def accepted(accept: str | None) -> str:
    """The media type that ``Accept`` (RFC 9110, 12.5.1) likes best.

    Raises:
        Problem: 406, none of ours.
    """
    best, liked = "", (0.0, 0)
    for part in (accept or "*/*").split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        for place, offered in enumerate((RESPONSE, JSON, EVENTS)):
            ours = (kind in ("*/*", "application/*") and place == 0) or kind == offered
            if ours and weight > 0 and (weight, -place) > liked:
                best, liked = offered, (weight, -place)
    if not best:
        raise Problem(406, "not-acceptable", f"Accept takes none of {RESPONSE}, {JSON}, {EVENTS}.")
    return best


async def read(request: Request, most: int) -> Asked:
    """The request that a body holds, of which never more than the limit is kept.

    Raises:
        Problem: 415 for another media type, 413 over ``most`` bytes, 408 when it does not come, 400 when it is none.
    """
    written = request.headers.get("content-type", "")
    charset = _CHARSET.search(written)
    if written.partition(";")[0].strip().lower() != JSON or (charset and charset[1].lower() not in ("utf-8", "utf8")):
        raise Problem(415, "media-type", f"Content-Type is {written[:100] or 'missing'}: send {JSON} in UTF-8.")
    if (coding := request.headers.get("content-encoding", "identity").strip().lower()) != "identity":
        detail = f"Content-Encoding is {coding[:100]}: send none."
        raise Problem(415, "content-encoding", detail, {"Accept-Encoding": "identity"})
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Problem(413, "too-large", f"The body is over {most:,} bytes.", {"Connection": "close"})
    except TimeoutError:
        detail = f"The body did not come within {BODY_S:g} s."
        raise Problem(408, "too-slow", detail, {"Connection": "close"}) from None
    return asked_of(json_of(bytes(body), "the body"))


def json_of(text: str | bytes | None, what: str) -> Any:
    """What JSON says; None of None.

    Raises:
        Problem: 400, it is none.
    """
    if text is None:
        return None
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise Problem(400, "json", f"{what.capitalize()} is not JSON (RFC 8259): {error}.") from None


def asked_of(given: Any) -> Asked:
    """A request of JSON.

    Raises:
        Problem: 400, it is not one.
    """
    if isinstance(given, list):
        raise Problem(400, "batch", "Batches are not taken: send one request, which may ask for many fields.")
    if not isinstance(given, dict):
        raise Problem(400, "invalid-request", "A request is a JSON object with query, operationName and variables.")
    if not isinstance(given.get("query"), str):
        raise Problem(400, "invalid-request", "A request has a query, which is text; persisted queries are not kept.")
    for name, kind in (("operationName", str), ("variables", dict), ("extensions", dict)):
        if not isinstance(given.get(name), kind | None):
            raise Problem(400, "invalid-request", f"{name} is {'a text' if kind is str else 'an object'} or null.")
    return Asked(given["query"], given.get("operationName"), given.get("variables"))


def expiry(token: str) -> float:
    """When a token that was found valid ends, in seconds since 1970."""
    try:
        part = token.split(".")[1]
        return float(orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return float("inf")
