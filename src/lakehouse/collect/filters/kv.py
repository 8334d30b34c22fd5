"""``kv``: key=value pairs of a text (Logstash Reference 8, "Kv filter plugin")."""

from __future__ import annotations

from collections.abc import Callable

import regex

from lakehouse.collect.event import MISSING, Event, append, get, put, reference, tag, text
from lakehouse.collect.oniguruma import translated
from lakehouse.collect.options import FilterOptions, Listed
from lakehouse.collect.plugins import Plugin, options


class KvOptions(FilterOptions):
    """Where pairs are read, how they are told apart, and which become fields."""

    source: str = "message"
    target: str | None = None
    field_split: str = " "
    field_split_pattern: str | None = None
    value_split: str = "="
    value_split_pattern: str | None = None
    trim_key: str | None = None
    trim_value: str | None = None
    remove_char_key: str | None = None
    remove_char_value: str | None = None
    include_keys: Listed = []
    exclude_keys: Listed = []
    default_keys: dict[str, str] = {}
    prefix: str = ""
    include_brackets: bool = True
    allow_duplicate_values: bool = True
    allow_empty_values: bool = False
    tag_on_failure: Listed = ["_kv_filter_error"]


def kv(plugin: Plugin) -> tuple[FilterOptions, Callable[[Event], bool | None]]:
    """Pairs become fields; a key that comes again becomes a list."""
    chosen = options(plugin, KvOptions)
    between = translated(chosen.field_split_pattern) if chosen.field_split_pattern else _any_of(chosen.field_split)
    equals = translated(chosen.value_split_pattern) if chosen.value_split_pattern else _any_of(chosen.value_split)
    quoted = [r'"(?P<q>(?:\\.|[^"\\])*)"', r"'(?P<q>(?:\\.|[^'\\])*)'"]
    if chosen.include_brackets:
        quoted += [r"\((?P<q>[^)]*)\)", r"\[(?P<q>[^\]]*)\]", r"<(?P<q>[^>]*)>"]
    ends = rf"(?={between}|\Z)"
    value = "|".join([*(q + ends for q in quoted), rf"(?P<q>(?:(?!{between}).)*)"])
    # Outside of a class `regex` lets names repeat: the alternative that matched has the value.
    pair = regex.compile(rf"(?s)(?P<key>(?:(?!{equals}|{between}).)+)(?:{equals})(?:{value})")
    source, under = reference(chosen.source), reference(chosen.target) if chosen.target else ()
    include, exclude = set(chosen.include_keys), set(chosen.exclude_keys)
    defaults = [(reference(name), value) for name, value in chosen.default_keys.items()]

    def apply(event: Event) -> bool:
        found = get(event, source)
        if found is MISSING or found is None:
            return False
        if isinstance(found, dict):
            tag(event, chosen.tag_on_failure)
            return False
        fields: dict[str, list[str]] = {}
        for line in found if isinstance(found, list) else [found]:
            for match in pair.finditer(text(line)):
                name, value = _trimmed(match["key"], chosen.trim_key), _trimmed(match["q"], chosen.trim_value)
                name, value = _without(name, chosen.remove_char_key), _without(value, chosen.remove_char_value)
                if not name or (include and name not in include) or name in exclude:
                    continue
                if not value and not chosen.allow_empty_values:
                    continue
                known = fields.setdefault(name, [])
                if chosen.allow_duplicate_values or value not in known:
                    known.append(value)
        for name, values in fields.items():
            for value in values:
                append(event, (*under, chosen.prefix + name), value)
        for path, value in defaults:
            if get(event, under + path) is MISSING:
                put(event, under + path, value)
        return bool(fields)

    return chosen, apply


def _any_of(characters: str) -> str:
    return f"[{characters}]+" if len(characters) > 1 else regex.escape(characters, literal_spaces=True)


def _trimmed(value: str, characters: str | None) -> str:
    return value.strip(characters) if characters else value


def _without(value: str, characters: str | None) -> str:
    return regex.sub(f"[{characters}]", "", value) if characters else value
