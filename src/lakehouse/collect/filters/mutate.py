"""``mutate``: changes of fields, in Logstash's fixed order (Logstash Reference 8, "Mutate filter plugin")."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import regex
from pydantic import Field

from lakehouse.collect.event import MISSING, Event, append, get, put, reference, remove, tag, template, text
from lakehouse.collect.oniguruma import translated
from lakehouse.collect.options import FilterOptions, Listed
from lakehouse.collect.plugins import Plugin, options

_TRUE, _FALSE = {"true", "t", "yes", "y", "1", "1.0"}, {"false", "f", "no", "n", "0", "0.0"}
_GROUP = re.compile(r"\\(\d|k<(\w+)>)")


class MutateOptions(FilterOptions):
    """One option a change; the order in the file does not matter."""

    coerce: dict[str, str] = {}
    rename: dict[str, str] = {}
    update: dict[str, str] = {}
    replace: dict[str, str] = {}
    convert: dict[str, str] = {}
    gsub: list[str] = []
    uppercase: Listed = []
    capitalize: Listed = []
    lowercase: Listed = []
    strip: Listed = []
    split: dict[str, str] = {}
    join: dict[str, str] = {}
    merge: dict[str, Any] = {}
    copy_: dict[str, str] = Field(default={}, alias="copy")  # a pydantic model has a method of that name
    tag_on_failure: str = "_mutate_error"


def mutate(plugin: Plugin) -> tuple[FilterOptions, Callable[[Event], bool | None]]:
    """All changes that the plugin names, each to the fields that are there."""
    chosen = options(plugin, MutateOptions)
    steps = [
        *(_coerce(name, value) for name, value in chosen.coerce.items()),
        *(_rename(old, new) for old, new in chosen.rename.items()),
        *(_replace(name, value, missing=False) for name, value in chosen.update.items()),
        *(_replace(name, value, missing=True) for name, value in chosen.replace.items()),
        *(_convert(name, kind) for name, kind in chosen.convert.items()),
        *_gsub(chosen.gsub),
        *(_each(name, str.upper) for name in chosen.uppercase),
        *(_each(name, str.capitalize) for name in chosen.capitalize),
        *(_each(name, str.lower) for name in chosen.lowercase),
        *(_each(name, str.strip) for name in chosen.strip),
        *(_split(name, by) for name, by in chosen.split.items()),
        *(_join(name, by) for name, by in chosen.join.items()),
        *(_merge(into, of) for into, of in chosen.merge.items()),
        *(_copy(of, into) for of, into in chosen.copy_.items()),
    ]

    def apply(event: Event) -> bool:
        try:
            for step in steps:
                step(event)
        except (ValueError, TypeError, OverflowError):
            tag(event, [chosen.tag_on_failure])
            return False
        return True

    return chosen, apply


Step = Callable[[Event], None]


def _coerce(name: str, value: str) -> Step:
    path, fill = reference(name), template(value)

    def step(event: Event) -> None:
        if get(event, path) is None:
            put(event, path, fill(event))

    return step


def _rename(old: str, new: str) -> Step:
    source, fill = reference(old), template(new)

    def step(event: Event) -> None:
        value = remove(event, source)
        if value is not MISSING:
            put(event, reference(fill(event)), value)

    return step


def _replace(name: str, value: str, missing: bool) -> Step:
    path, fill = reference(name), template(value)

    def step(event: Event) -> None:
        if missing or get(event, path) is not MISSING:
            put(event, path, fill(event))

    return step


def _number(kind: Callable[[str], Any], pattern: str, european: bool) -> Callable[[Any], Any]:
    leading = re.compile(pattern)

    def convert(value: Any) -> Any:
        if isinstance(value, (bool, int, float)):
            return kind(value)  # type: ignore[arg-type]
        written = text(value).strip()
        written = written.replace(".", "").replace(",", ".") if european else written.replace(",", "")
        found = leading.match(written)  # as in Ruby: what is no number is 0
        return kind(found.group(0)) if found else kind("0")

    return convert


def _boolean(value: Any) -> Any:
    word = text(value).lower()
    return True if word in _TRUE else False if word in _FALSE else value


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "integer": _number(int, r"[+-]?\d+", european=False),
    "integer_eu": _number(int, r"[+-]?\d+", european=True),
    "float": _number(float, r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", european=False),
    "float_eu": _number(float, r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", european=True),
    "string": text,
    "boolean": _boolean,
}


def _convert(name: str, kind: str) -> Step:
    if kind not in _CONVERT:
        raise ValueError(f"convert: {kind!r} is none of {', '.join(_CONVERT)}")
    return _each(name, _CONVERT[kind], of=object)


def _each(name: str, change: Callable[[Any], Any], of: type = str) -> Step:
    """A change of a value, or of each element of a list; others than ``of`` stay."""
    path = reference(name)

    def step(event: Event) -> None:
        value = get(event, path)
        if value is MISSING or value is None:
            return
        if isinstance(value, list):
            put(event, path, [change(item) if isinstance(item, of) else item for item in value])
        elif isinstance(value, of):
            put(event, path, change(value))

    return step


def _gsub(triples: list[str]) -> list[Step]:
    if len(triples) % 3:
        raise ValueError("gsub needs field, pattern and replacement, any number of times")
    steps = []
    for name, pattern, by in zip(triples[::3], triples[1::3], triples[2::3], strict=True):
        try:
            compiled = regex.compile(translated(pattern))
        except regex.error as error:
            raise ValueError(f"gsub: /{pattern}/ is not a regular expression: {error}") from None
        groups = _GROUP.sub(lambda found: rf"\g<{found.group(2) or found.group(1)}>", by)
        steps.append(_each(name, lambda value, c=compiled, g=groups: c.sub(g, value)))  # type: ignore[misc]
    return steps


def _split(name: str, by: str) -> Step:
    def cut(value: str) -> list[str]:
        pieces = value.split(by)
        while pieces and not pieces[-1]:  # as Ruby's split
            pieces.pop()
        return pieces

    path = reference(name)

    def step(event: Event) -> None:
        value = get(event, path)
        if isinstance(value, str):
            put(event, path, cut(value))

    return step


def _join(name: str, by: str) -> Step:
    path = reference(name)

    def step(event: Event) -> None:
        value = get(event, path)
        if isinstance(value, list):
            put(event, path, by.join(map(text, value)))

    return step


def _merge(into: str, of: Any) -> Step:
    target, sources = reference(into), [reference(name) for name in (of if isinstance(of, list) else [of])]

    def step(event: Event) -> None:
        for source in sources:
            value = get(event, source)
            if value is MISSING or value is None:
                continue
            known = get(event, target)
            if isinstance(known, dict) and isinstance(value, dict):
                put(event, target, known | value)
            elif known is MISSING:
                put(event, target, value)
            else:
                for item in value if isinstance(value, list) else [value]:
                    append(event, target, item)

    return step


def _copy(of: str, into: str) -> Step:
    source, target = reference(of), reference(into)

    def step(event: Event) -> None:
        value = get(event, source)
        if value is not MISSING:
            put(event, target, value)

    return step
