"""``grok``: named regular expressions over a text (Logstash Reference 8, "Grok filter plugin").

The standard pattern library is the one that the ``pygrok`` package holds, Logstash's own before its ECS edition: it is
what ``ecs_compatibility => disabled`` names, and a pipeline says so, that Logstash and this collector read the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pygrok
import regex

from lakehouse.collect.event import MISSING, Event, append, get, put, reference, tag, text
from lakehouse.collect.event import Path as FieldPath
from lakehouse.collect.oniguruma import search, translated
from lakehouse.collect.options import FilterOptions, Listed
from lakehouse.collect.plugins import Plugin, options

_NAMED = regex.compile(r"%\{(\w+)(?::([^:}]+)(?::(\w+))?)?\}|\(\?<([A-Za-z_@\[][^>]*)>")

_DIGITS = 4300


def _int(digits: str) -> int | str:
    """A whole number; what has more digits than Python reads (``sys.int_info``) stays text."""
    return int(digits) if len(digits) <= _DIGITS else digits


_TYPES: dict[str, Callable[[str], Any]] = {"int": _int, "float": float, "string": str}
_DEPTH = 100


class GrokOptions(FilterOptions):
    """``match`` holds patterns by field, tried in turn."""

    match: dict[str, Any] = {}
    patterns_dir: Listed = []
    pattern_definitions: dict[str, str] = {}
    overwrite: Listed = []
    named_captures_only: Literal[True] = True
    keep_empty_captures: bool = False
    break_on_match: bool = True
    target: str | None = None
    tag_on_failure: Listed = ["_grokparsefailure"]
    timeout_millis: int = 30_000
    tag_on_timeout: str = "_groktimeout"
    ecs_compatibility: Literal["disabled"] = "disabled"  # Logstash 8: v8, whose composite patterns we do not have


@cache
def library(folder: Path | None = None) -> dict[str, str]:
    """Pattern files of a folder, or the standard library: name -> expression.

    Raises:
        ValueError: there is no such folder.
    """
    folder = folder or Path(pygrok.__file__).parent / "patterns"
    if not folder.is_dir():
        raise ValueError(f"patterns_dir: there is no folder {folder}")
    found = {}
    for path in sorted(folder.iterdir()):
        for line in path.read_text().splitlines():
            name, _, expression = line.strip().partition(" ")
            if expression and not name.startswith("#"):
                found[name] = expression.strip()
    return found


class Pattern:
    """A grok pattern, compiled: :meth:`match` gives the captured fields in their order."""

    def __init__(self, source: str, definitions: dict[str, str]):
        self.captures: list[tuple[FieldPath, Callable[[str], Any]]] = []
        expression = translated(self._expanded(source, definitions, 0))
        try:
            self.compiled = regex.compile(expression)
        except regex.error as error:
            raise ValueError(f"match: {source!r} is not a regular expression: {error}") from None
        self.groups = tuple(f"g{n}" for n in range(len(self.captures)))

    def _expanded(self, source: str, definitions: dict[str, str], depth: int) -> str:
        if depth > _DEPTH:
            raise ValueError("match: patterns that name each other in a circle")

        def expand(found: regex.Match[str]) -> str:
            name, field, kind, group = found.groups()
            if group is not None:
                return self._opened(group, "string")
            if name not in definitions:
                raise ValueError(f"match: pattern %{{{name}}} is not defined")
            if kind is not None and kind not in _TYPES:
                raise ValueError(f"match: type {kind!r} is none of {', '.join(_TYPES)}")
            opened = "(?:" if field is None else self._opened(field, kind or "string")
            return f"{opened}{self._expanded(definitions[name], definitions, depth + 1)})"

        return str(_NAMED.sub(expand, source))

    def _opened(self, field: str, kind: str) -> str:
        self.captures.append((reference(field), _TYPES[kind]))
        return f"(?P<g{len(self.captures) - 1}>"

    def match(self, line: str, timeout: float) -> list[tuple[FieldPath, Any]] | None:
        """(path, value) of each capture that took part; None without a match.

        Raises:
            TimeoutError: it took longer than ``timeout`` seconds.
        """
        found = search(self.compiled, line, timeout)
        if found is None:
            return None
        values = found.group(*self.groups) if len(self.groups) > 1 else tuple(found.group(g) for g in self.groups)
        return [
            (path, convert(value))
            for (path, convert), value in zip(self.captures, values, strict=True)
            if value is not None
        ]


def grok(plugin: Plugin) -> tuple[FilterOptions, Callable[[Event], bool | None]]:
    """Captures of the first pattern that a field's text matches become fields."""
    chosen = options(plugin, GrokOptions)
    definitions = dict(library())
    for folder in chosen.patterns_dir:
        definitions |= library(Path(folder))
    definitions |= chosen.pattern_definitions
    wanted = [
        (reference(field), [Pattern(p, definitions) for p in (patterns if isinstance(patterns, list) else [patterns])])
        for field, patterns in chosen.match.items()
    ]
    overwrite = {reference(field) for field in chosen.overwrite}
    under = reference(chosen.target) if chosen.target else ()
    seconds = chosen.timeout_millis / 1000 or None

    def apply(event: Event) -> bool:
        matched = False
        for field, patterns in wanted:
            value = get(event, field)
            if value is MISSING or value is None:
                continue
            for line in value if isinstance(value, list) else [value]:
                written = text(line)
                for pattern in patterns:
                    captures = pattern.match(written, seconds)  # type: ignore[arg-type]
                    if captures is None:
                        continue
                    matched = True
                    keep(event, captures)
                    if chosen.break_on_match:
                        return True
        return matched

    def keep(event: Event, captures: list[tuple[FieldPath, Any]]) -> None:
        fresh = set(overwrite)
        for path, value in captures:
            if value == "" and not chosen.keep_empty_captures:
                continue
            if path in fresh:
                fresh.discard(path)
                put(event, under + path, value)
            else:
                append(event, under + path, value)

    def tagged(event: Event) -> bool:
        try:
            done = apply(event)
        except TimeoutError:
            tag(event, [chosen.tag_on_timeout])
            return False
        if not done:
            tag(event, chosen.tag_on_failure)
        return done

    return chosen, tagged
