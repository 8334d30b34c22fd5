"""``date``: a field's text becomes the event's time (Logstash Reference 8, "Date filter plugin")."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lakehouse.collect.event import MISSING, Event, get, put, reference, tag, text
from lakehouse.collect.joda import parser
from lakehouse.collect.options import FilterOptions, Listed
from lakehouse.collect.plugins import Plugin, options


class DateOptions(FilterOptions):
    """``match`` is a field and its patterns, tried in turn; the time goes to ``target``."""

    match: Listed
    target: str = "@timestamp"
    timezone: str = "UTC"  # Logstash takes the machine's; the lake's times are UTC everywhere
    locale: str = "en"
    tag_on_failure: Listed = ["_dateparsefailure"]


def date(plugin: Plugin) -> tuple[FilterOptions, Callable[[Event], bool | None]]:
    """Reads a time by the first pattern that it is of."""
    chosen = options(plugin, DateOptions)
    if len(chosen.match) < 2:
        raise ValueError("match: needs a field and a pattern at least")
    if chosen.locale.lower().split("-")[0].split("_")[0] not in ("en", "root"):
        raise ValueError("locale: names of months and days are read in English only")
    try:
        zone = ZoneInfo(chosen.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"timezone: {chosen.timezone!r} is not one of the tz database") from None
    source, target = reference(chosen.match[0]), reference(chosen.target)
    parsers = [parser(pattern, zone) for pattern in chosen.match[1:]]

    def apply(event: Event) -> bool:
        found = get(event, source)
        if found is MISSING or found is None:
            return False
        written = text(found)
        for parse in parsers:
            at = parse(written)
            if at is not None:
                put(event, target, at)
                return True
        tag(event, chosen.tag_on_failure)
        return False

    return chosen, apply
