"""An event on its way through the collector, and how Logstash's language names its parts.

An event is a plain nested ``dict``: ``@timestamp`` an aware ``datetime`` in UTC, ``tags`` a list of strings,
``@metadata`` a ``dict`` that no output delivers. References (``[log][level]``) and templates (``%{[log][level]}``) are
compiled once, when a pipeline is read. Source: Logstash Reference 8, "Accessing event data and fields", "Field
References Deep Dive".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from lakehouse.collect.joda import formatter

Event = dict[str, Any]
Path = tuple[str, ...]
MISSING: Any = object()
"""What :func:`get` answers where there is nothing; ``None`` is a value."""
METADATA = "@metadata"
_WHOLE = re.compile(r"(?:\[[^\[\]]+\])+")
_ELEMENT = re.compile(r"\[([^\[\]]+)\]")
_TEMPLATE = re.compile(r"%\{([^}]+)\}")


def reference(text: str) -> Path:
    """The path that a field reference names: ``[a][b]``, or ``a`` for a field at the top.

    Raises:
        ValueError: it is neither.
    """
    if _WHOLE.fullmatch(text):
        return tuple(_ELEMENT.findall(text))
    if not text or "[" in text or "]" in text:
        raise ValueError(f"{text!r} is not a field reference: write field or [outer][inner]")
    return (text,)


def get(event: Event, path: Path) -> Any:
    """The value at a path, or :data:`MISSING`; a number picks an element of a list."""
    value: Any = event
    for name in path:
        if isinstance(value, dict):
            value = value.get(name, MISSING)
        elif isinstance(value, list) and name.lstrip("-").isdigit() and -len(value) <= int(name) < len(value):
            value = value[int(name)]
        else:
            return MISSING
        if value is MISSING:
            return MISSING
    return value


def put(event: Event, path: Path, value: Any) -> None:
    """Set the value at a path; what lies in its way and can hold no fields is replaced."""
    holder = event
    for name in path[:-1]:
        inner = holder.get(name)
        if not isinstance(inner, dict):
            inner = holder[name] = {}
        holder = inner
    holder[path[-1]] = value


def remove(event: Event, path: Path) -> Any:
    """Take out the value at a path: what it was, or :data:`MISSING`."""
    holder = get(event, path[:-1]) if len(path) > 1 else event
    return holder.pop(path[-1], MISSING) if isinstance(holder, dict) else MISSING


def append(event: Event, path: Path, value: Any) -> None:
    """Set the value at a path; what is there already becomes a list with it."""
    known = get(event, path)
    if known is MISSING or known is None:
        put(event, path, value)
    else:
        put(event, path, [*(known if isinstance(known, list) else [known]), value])


def tag(event: Event, names: list[str]) -> None:
    """Add tags that it does not have yet."""
    tags = event.setdefault("tags", [])
    if not isinstance(tags, list):
        tags = event["tags"] = [tags]
    tags += [name for name in names if name not in tags]


def text(value: Any) -> str:
    """A value as a template shows it: lists joined by commas, objects as JSON."""
    if isinstance(value, str):
        return value
    if value is True or value is False:
        return str(value).lower()
    if value is None:
        return ""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, list):
        return ",".join(map(text, value))
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode() if isinstance(value, dict) else str(value)


def iso(at: datetime) -> str:
    """A time as Logstash writes it: RFC 3339 in UTC, milliseconds unless it has more."""
    precision = "milliseconds" if at.microsecond % 1000 == 0 else "microseconds"
    return at.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def template(source: str) -> Callable[[Event], str]:
    """A function that fills ``%{field}``, ``%{[a][b]}`` and ``%{+yyyy.MM.dd}``; a missing field stays as written.

    Raises:
        ValueError: a reference or a date format in it is wrong.
    """
    parts: list[str | Callable[[Event], str]] = []
    at = 0
    for found in _TEMPLATE.finditer(source):
        if found.start() > at:
            parts.append(source[at : found.start()])
        parts.append(_filled(found.group(0), found.group(1)))
        at = found.end()
    if at < len(source):
        parts.append(source[at:])
    if not any(callable(part) for part in parts):
        return lambda event: source
    return lambda event: "".join(part if isinstance(part, str) else part(event) for part in parts)


def _filled(written: str, name: str) -> Callable[[Event], str]:
    if name.startswith("+"):
        show = formatter(name[1:])

        def date(event: Event) -> str:
            at = event.get("@timestamp")
            return show(at) if isinstance(at, datetime) else written

        return date
    path = reference(name)

    def field(event: Event) -> str:
        value = get(event, path)
        return written if value is MISSING else text(value)

    return field


def delivered(event: Event) -> bytes:
    """The event as JSON for an output, ``@metadata`` left out; what JSON can't hold as text."""
    shown = {name: value for name, value in event.items() if name != METADATA}
    if isinstance(at := shown.get("@timestamp"), datetime):
        shown["@timestamp"] = iso(at)
    try:
        return orjson.dumps(shown, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS, default=str)
    except TypeError as error:
        if "64-bit" not in str(error):
            raise
    # Whole numbers of any size are JSON (RFC 8259, 6), and what Logstash writes.
    text = json.dumps(shown, default=_text, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _text(value: Any) -> str:
    return iso(value) if isinstance(value, datetime) else str(value)


def made(fields: Event, now: datetime | None) -> Event:
    """Fields from outside as an event: ``@timestamp`` a time, ``tags`` a list, ``@metadata`` an object.

    A value that can't be read as such is kept beside it with ``_`` before its name, and tagged, as in Logstash.
    """
    at = fields.get("@timestamp")
    if at is None:
        fields["@timestamp"] = now
    elif type(at) is not datetime:
        try:
            parsed = datetime.fromisoformat(at)
            fields["@timestamp"] = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        except (ValueError, TypeError, OverflowError):
            fields |= {"_@timestamp": at, "@timestamp": now}
            tag(fields, ["_timestampparsefailure"])
    tags = fields.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(name, str) for name in tags)):
        if isinstance(tags, str):
            fields["tags"] = [tags]
        else:
            fields |= {"_tags": tags, "tags": ["_tagsparsefailure"]}
    if METADATA in fields and not isinstance(fields[METADATA], dict):
        fields["_" + METADATA] = fields.pop(METADATA)
    return fields
