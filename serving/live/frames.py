"""Server-sent events on the wire (WHATWG HTML, 9.2.5 and 9.2.6)."""

from __future__ import annotations

import re

_LINES = re.compile(rb"\r\n|\r|\n")


def event(name: str, data: bytes, position: str | None = None) -> bytes:
    """One event; each line of its data goes into a field of its own, from which a client joins them with ``\\n``.

    Raises:
        ValueError: a name or position with a line break or NUL would be read as something else.
    """
    lines = [b"event: " + _single(name), *([b"id: " + _single(position)] if position is not None else [])]
    return b"\n".join([*lines, *(b"data: " + line for line in _LINES.split(data)), b"", b""])


def place(position: str) -> bytes:
    """A block without data: no event, but what a client asks to go on from is set (9.2.6, step 1 of dispatching)."""
    return b"id: " + _single(position) + b"\n\n"


def retry(milliseconds: int) -> bytes:
    """How long a client waits before it comes again."""
    return b"retry: %d\n\n" % milliseconds


HEARTBEAT = b":\n\n"
"""A comment: keeps proxies from closing a silent connection, and shows us a client that is gone."""


def _single(text: str) -> bytes:
    if any(c in text for c in "\r\n\0"):
        raise ValueError(f"{text!r} is not one line")
    return text.encode()
