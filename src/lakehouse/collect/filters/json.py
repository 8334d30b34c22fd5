"""``json``: the object in a field's text (Logstash Reference 8, "JSON filter plugin")."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from lakehouse.collect.event import METADATA, MISSING, Event, get, made, put, reference, tag
from lakehouse.collect.options import FilterOptions, Listed
from lakehouse.collect.plugins import Plugin, options


class JsonOptions(FilterOptions):
    """``source`` is read; its object goes to ``target``, or to the event's top."""

    source: str
    target: str | None = None
    skip_on_invalid_json: bool = False
    tag_on_failure: Listed = ["_jsonparsefailure"]


def json(plugin: Plugin) -> tuple[FilterOptions, Callable[[Event], bool | None]]:
    """Reads JSON; at the top, ``@timestamp`` stays a time, and one that is none is kept in ``_@timestamp``."""
    chosen = options(plugin, JsonOptions)
    source, target = reference(chosen.source), reference(chosen.target) if chosen.target else None

    def apply(event: Event) -> bool:
        found = get(event, source)
        if found is MISSING or found is None:
            return False
        try:
            value = orjson.loads(found) if isinstance(found, str) else None
        except orjson.JSONDecodeError:
            value = None
        if value is None or (target is None and not isinstance(value, dict)):
            if not chosen.skip_on_invalid_json:
                tag(event, chosen.tag_on_failure)
            return False
        if target is not None:
            put(event, target, value)
            return True
        merge(event, value)
        return True

    return chosen, apply


def merge(event: Event, fields: Event) -> None:
    """Lay an object's fields over an event's; a time that is not one is kept as text beside it, as Logstash does."""
    at, metadata = event.get("@timestamp"), event.get(METADATA)
    event.update(fields)
    if metadata is not None:
        event[METADATA] = metadata
    made(event, at)
